include "cpu/state.pxd"
