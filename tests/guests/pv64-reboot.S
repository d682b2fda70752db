# Asks to be rebooted.
        .include "pv64.inc"
        PV_GUEST reboot, _start
        .globl  _start
_start: call    console_init
        PRINT   "rebooting\n"
        SHUTDOWN 1
