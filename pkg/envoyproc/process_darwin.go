package envoyproc

import "syscall"

// group puts the child into a process group of its own. macOS has no parent-death signal: after a SIGKILL of mcpgw, Envoy stays.
func group() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
