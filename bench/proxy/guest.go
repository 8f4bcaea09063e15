package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// guestMemory is what hack/vm gives a guest in which thousands of Services are
// measured, in MiB.
const guestMemory = "4096"

// lacks reports whether this machine's kernel cannot run a mode that a guest's can.
func lacks(mode string) bool {
	if mode != "ipvs" {
		return false
	}
	_ = exec.Command("modprobe", "ip_vs").Run() // built in, it needs no module
	_, err := os.Stat("/proc/net/ip_vs")
	return err != nil
}

// inGuest measures a mode in a guest with a stock kernel, whose processor is
// emulated: its figures are to be compared with each other alone. Each result is
// handed to add.
func inGuest(ctx context.Context, o options, mode, sizes string, add func(result)) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{
		self, "-guest", "-sluice", o.sluice, "-kube-proxy", o.kubeProxy, "-modes", mode, "-sizes", sizes, "-kube-proxy-size", fmt.Sprint(o.peerSize), "-memory", "",
		"-endpoints", fmt.Sprint(o.endpoints), "-writes", fmt.Sprint(o.writes), "-rounds", fmt.Sprint(o.rounds), "-round", o.round.String(), "-limit", o.limit.String(),
	}
	if o.verbose {
		args = append(args, "-v")
	}
	cmd := exec.CommandContext(ctx, "hack/vm", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it ends the guest
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = os.Environ()
	if os.Getenv("VM_MEMORY") == "" {
		cmd.Env = append(cmd.Env, "VM_MEMORY="+guestMemory)
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("a guest for %s, which this kernel has not: %w", mode, err)
	}
	fmt.Printf("in a guest, because this kernel has no %s:\n", mode)
	err = results(out, os.Stdout, add)
	if failed := cmd.Wait(); failed != nil {
		return fmt.Errorf("%s in a guest: %w", mode, failed)
	}
	return err
}

// results hands each result of a guest to add, and passes on what else it says.
func results(from io.Reader, to io.Writer, add func(result)) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		var r result
		if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &r) != nil || r.Proxy == "" {
			_, _ = fmt.Fprintln(to, line)
			continue
		}
		r.Guest = true
		add(r)
	}
	return lines.Err()
}
