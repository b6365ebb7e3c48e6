package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// peakMemory executes a process and returns the most memory it had at once, in KiB, resident. It stops the process on
// its way out and asks /proc: what wait4 says is at least the memory of whoever started it.
func peakMemory(p *process) (kiB int, err error) {
	runtime.LockOSThread() // who traces is a thread
	defer runtime.UnlockOSThread()
	p.attr.Sys = &syscall.SysProcAttr{Ptrace: true}
	started, err := p.start()
	if err != nil {
		return 0, err
	}
	defer started.Release()
	pid := started.Pid
	for executed := false; ; {
		var ws unix.WaitStatus
		if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil {
			return 0, err
		}
		signal := ws.StopSignal()
		switch {
		case ws.Exited() && ws.ExitStatus() == 0 && kiB > 0:
			return kiB, nil
		case ws.Exited() || ws.Signaled():
			return 0, fmt.Errorf("%s: ended with %#x, peak memory %d KiB", p.path, ws, kiB)
		case !executed:
			executed, signal = true, 0
			err = unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACEEXIT)
		case ws.TrapCause() == unix.PTRACE_EVENT_EXIT:
			signal = 0
			kiB, err = peakOf(pid)
		}
		if err = errors.Join(err, unix.PtraceCont(pid, int(signal))); err != nil {
			return 0, err
		}
	}
}

// peakOf is VmHWM of proc_pid_status(5).
func peakOf(pid int) (kiB int, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		if text, ok := strings.CutPrefix(string(line), "VmHWM:"); ok {
			_, err = fmt.Sscan(text, &kiB)
			return kiB, err
		}
	}
	return 0, fmt.Errorf("no VmHWM in /proc/%d/status", pid)
}
