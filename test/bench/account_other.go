//go:build !linux

package main

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// ps asks for one column about a process.
func ps(pid int, column string) (string, error) {
	out, err := exec.Command("ps", "-o", column+"=", "-p", strconv.Itoa(pid)).Output()
	return strings.TrimSpace(string(out)), err
}

// cpuTime is the CPU time that a process has used, in steps of 10 ms: [[hours:]minutes:]seconds.
func cpuTime(pid int) (time.Duration, error) {
	text, err := ps(pid, "time")
	if err != nil {
		return 0, err
	}
	var total float64
	for part := range strings.SplitSeq(text, ":") {
		n, err := strconv.ParseFloat(part, 64)
		if err != nil {
			return 0, fmt.Errorf("CPU time %q: %w", text, err)
		}
		total = total*60 + n
	}
	return time.Duration(total * float64(time.Second)), nil
}

// resident is the memory of a process that lies in RAM, in bytes.
func resident(pid int) (int64, error) {
	text, err := ps(pid, "rss")
	if err != nil {
		return 0, err
	}
	kib, err := strconv.ParseInt(text, 10, 64)
	return kib << 10, err
}

// children are the processes that a process has started.
func children(pid int) ([]int, error) {
	text, err := exec.Command("pgrep", "-P", strconv.Itoa(pid)).Output()
	if err != nil {
		return nil, err
	}
	var out []int
	for _, f := range strings.Fields(string(text)) {
		n, err := strconv.Atoi(f)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

func processor() string {
	out, err := exec.Command("sysctl", "-n", "machdep.cpu.brand_string").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func loadAverage() string {
	out, err := exec.Command("sysctl", "-n", "vm.loadavg").Output() // "{ 1.2 1.3 1.4 }"
	if f := strings.Fields(string(out)); err == nil && len(f) > 1 {
		return f[1]
	}
	return ""
}
