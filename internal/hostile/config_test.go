package hostile

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/lab"
)

// run runs the program on the node and returns all that it wrote, and its exit
// status; -1 if it did not end.
func (w *world) run(t *testing.T, prepare func(*lab.Cmd), args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := w.node.Command(ctx, w.binary, args...)
	if prepare != nil {
		prepare(cmd)
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return string(out), 0
	case errors.As(err, &exit) && ctx.Err() == nil:
		return string(out), exit.ExitCode()
	}
	t.Errorf("%v: %v\n%s", args, err, out)
	return string(out), -1
}

// TestConfiguration proves that a process that cannot run as it is told says so
// in one line that names the field, and ends.
func TestConfiguration(t *testing.T) {
	w := newWorld(t)
	w.write(t, "base.yaml", w.base(t)["base.yaml"])
	tcp, err := w.node.Listen("tcp", "127.0.0.1:5998")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	udp, err := w.node.ListenPacket("udp", "127.0.0.1:5997")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = udp.Close() }()
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "configuration.yaml")
		if err := os.WriteFile(path, []byte("apiVersion: sluice.io/v1alpha1\nkind: Configuration\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	missing := filepath.Join(w.state, "missing")
	for _, c := range []struct {
		name string
		args []string
		says string
	}{
		{"an unknown flag", []string{"--nonsense"}, "unknown flag: --nonsense"},
		{"an unknown field", []string{"--config", file("dsn: {}\n")}, `unknown field "dsn"`},
		{"a field of the wrong type", []string{"--config", file("dns: {listen: ['53']}\n")}, `dns.listen[0]: expected ADDRESS:PORT, found "53"`},
		{"a file that is no YAML", []string{"--config", file("dns: [\n")}, "configuration.yaml: yaml: line 3"},
		{"a missing file", []string{"--config", missing}, "no such file or directory"},
		{"a missing directory", []string{"--manifests", missing}, "manifests: there is no directory " + missing},
		{"a file for a directory", []string{"--manifests", filepath.Join(w.dir, "base.yaml")}, "is a file; name the directory that holds it"},
		{"a bad level", []string{"--log-level", "loud"}, `log.level: expected one of`},
		{"an unknown engine", []string{"--proxy-mode", "userspace"}, `found "userspace"`},
		{"a bad zone", []string{"--zone", "a b"}, "zone: expected a DNS name"},
		{"a bad trust domain", []string{"--mesh-trust-domain", "A/b"}, "mesh.trustDomain: expected a DNS name"},
		{"a bad upstream", []string{"--dns-upstreams", "a b"}, `dns.upstreams[1]: expected an address, as 10.0.0.1 or [fd00::1]:53, found "a b"`},
		{"a bad address", []string{"--xds-address", "hello"}, `xds.address: expected HOST:PORT, found "hello"`},
		{"somebody else's address", []string{"--metrics", "192.0.2.1:80"}, "metrics: 192.0.2.1:80 is no address of this machine"},
		{"a port of metrics that is taken", []string{"--metrics", "127.0.0.1:5998"}, "metrics: another process has 127.0.0.1:5998 (tcp); stop it, or choose another address with --metrics"},
		{"a port of xDS that is taken", []string{"--xds-address", "127.0.0.1:5998"}, "xds.address: another process has 127.0.0.1:5998 (tcp)"},
		{"a port of DNS that is taken", []string{"--dns-listen", "127.0.0.1:5997"}, "dns.listen: another process has 127.0.0.1:5997 (udp); stop it, or choose another address with --dns-listen"},
		{"no Envoy", []string{"--envoy", missing}, "no Envoy binary (looked at " + missing + ")"},
		{"a directory for state that cannot be written", []string{"--state-dir", "/proc/state"}, "stateDir: /proc may not be written to"},
		{"a socket that cannot be made", []string{"--socket", "/proc/run/sluice.sock"}, "socket: /proc may not be written to"},
		{"an argument too many", []string{"more"}, `unknown command "more" for "sluice up"`},
	} {
		t.Run(c.name, func(t *testing.T) { w.refuses(t, nil, c.says, w.arguments(c.args...)...) })
	}
	t.Run("without the right", func(t *testing.T) {
		out, code := w.run(t, powerless, w.arguments()...)
		if code != 1 || !strings.Contains(out, "no engine can run on this machine") || strings.Count(out, "run as root, or with the capability CAP_NET_ADMIN") != 2 || strings.Contains(out, "time=") {
			t.Errorf("exit status %d\n%s", code, out)
		}
	})
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode+" without the right", func(t *testing.T) {
			w.refuses(t, powerless, "CAP_NET_ADMIN", w.arguments("--proxy-mode", mode)...)
		})
	}

	w.start()
	until(t, "start", func() error { _, err := w.problems(); return err })
	t.Run("a second one", func(t *testing.T) {
		w.refuses(t, nil, "socket: another sluice answers on "+w.socket()+"; stop it, or choose another with --socket", w.arguments()...)
	})
	t.Run("a second one elsewhere", func(t *testing.T) {
		w.refuses(t, nil, "dns.listen: another process has", w.arguments("--socket", filepath.Join(w.state, "other.sock"))...)
	})
	if err := unix.Access(w.socket(), unix.F_OK); err != nil {
		t.Errorf("the first one's socket: %v", err)
	}
}

// powerless takes CAP_NET_ADMIN, which is gone when the program is executed.
func powerless(cmd *lab.Cmd) {
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `exec setpriv --bounding-set -net_admin --inh-caps -net_admin "$@"`, "sh"}, cmd.Args...)
}

// refuses expects that the program ends with one line that says something.
func (w *world) refuses(t *testing.T, prepare func(*lab.Cmd), says string, args ...string) {
	t.Helper()
	out, code := w.run(t, prepare, args...)
	var lines []string
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "time=") {
			lines = append(lines, line)
		}
	}
	if code != 1 || len(lines) != 1 || !strings.HasPrefix(lines[0], "sluice: ") || !strings.Contains(lines[0], says) {
		t.Errorf("exit status %d, and not one line with %q:\n%s", code, says, out)
	}
}

// TestCheck proves that what would keep a process from running is told before.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	check := func(more ...string) []string {
		args := w.arguments(more...)
		args[0] = "check"
		return args
	}
	if out, code := w.run(t, nil, check()...); code != 0 || strings.Contains(out, "FAIL") {
		t.Errorf("a good machine: exit status %d\n%s", code, out)
	}
	missing := filepath.Join(w.state, "missing")
	out, code := w.run(t, nil, check("--manifests", missing, "--envoy", missing, "--metrics", "192.0.2.1:80")...)
	for _, want := range []string{"FAIL  manifests " + missing, "FAIL  envoy " + missing, "FAIL  metrics 192.0.2.1:80", "ok    engine nftables", "sluice: 3 checks failed"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code != 1 {
		t.Errorf("exit status %d", code)
	}
	out, code = w.run(t, powerless, check()...)
	for _, want := range []string{"FAIL  proxy.mode auto: ", "warn  engine nftables: ", "CAP_NET_ADMIN", "warn  no other service proxy: only root", "sluice: 1 checks failed"} {
		if !strings.Contains(out, want) {
			t.Errorf("without the right: no %q in\n%s", want, out)
		}
	}
	if code != 1 {
		t.Errorf("without the right: exit status %d", code)
	}
	for _, args := range [][]string{{"cleanup", "--socket", w.socket()}, {"cleanup", "--kube-proxy"}} {
		if out, code := w.run(t, powerless, args...); code != 1 || !strings.Contains(out, "CAP_NET_ADMIN") {
			t.Errorf("%q without the right: exit status %d\n%s", args, code, out)
		}
		if out, code := w.run(t, nil, args...); code != 0 {
			t.Errorf("%q: exit status %d\n%s", args, code, out)
		}
	}
	w.start()
	until(t, "start", func() error { _, err := w.problems(); return err })
	if out, code := w.run(t, nil, check()...); code != 0 || !strings.Contains(out, "a sluice runs on "+w.socket()+" already") {
		t.Errorf("beside one that runs: exit status %d\n%s", code, out)
	}
}
