"""Scheduler operations.  Specified in xen/include/public/sched.h."""

from xenfast.abi.layout import Layout

SCHEDOP_yield = 0
SCHEDOP_block = 1
SCHEDOP_shutdown = 2
SCHEDOP_poll = 3
SCHEDOP_remote_shutdown = 4
SCHEDOP_shutdown_code = 5
SCHEDOP_watchdog = 6
SCHEDOP_pin_override = 7

SHUTDOWN_poweroff = 0
SHUTDOWN_reboot = 1             # the toolstack starts it again
SHUTDOWN_suspend = 2            # its state may be saved now
SHUTDOWN_crash = 3              # it says itself that it has crashed, or Xen does
SHUTDOWN_watchdog = 4           # it has not poked its watchdog in time
SHUTDOWN_soft_reset = 5         # it goes on with a new kernel and new devices
SHUTDOWN_MAX = 5

SHUTDOWN_NAMES = {
    SHUTDOWN_poweroff: "poweroff",
    SHUTDOWN_reboot: "reboot",
    SHUTDOWN_suspend: "suspend",
    SHUTDOWN_crash: "crash",
    SHUTDOWN_watchdog: "watchdog",
    SHUTDOWN_soft_reset: "soft_reset",
}

shutdown = Layout("sched_shutdown", ("reason", "I"))
poll = Layout("sched_poll", ("ports", "P"), ("nr_ports", "I"), ("timeout", "Q"))
remote_shutdown = Layout("sched_remote_shutdown", ("domain_id", "H"), ("reason", "I"))
watchdog = Layout("sched_watchdog", ("id", "I"), ("timeout", "I"))
pin_override = Layout("sched_pin_override", ("pcpu", "i"))
