package envoy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/envoy/envoytest"
)

// proxyTo returns a bootstrap with a listener on a free port of loopback that
// sends all requests to backend, and the files where its sockets are.
func proxyTo(admin, backend string) []byte {
	host, port, _ := net.SplitHostPort(backend)
	return fmt.Appendf(nil, `
admin: {address: {pipe: {path: %q}}}
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: back}}]}]
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: back
    type: STATIC
    load_assignment:
      cluster_name: back
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]
`, admin, host, port)
}

// frontAddr asks a running Envoy where its listener is.
func frontAddr(t *testing.T, p *envoy.Process) string {
	t.Helper()
	body, err := p.Admin().Get(t.Context(), "/listeners")
	if err != nil {
		t.Fatal(err)
	}
	_, addr, ok := strings.Cut(strings.TrimSpace(string(body)), "::")
	if !ok {
		t.Fatalf("listeners: %q", body)
	}
	return addr
}

func TestRestart(t *testing.T) {
	admin := filepath.Join(t.TempDir(), "admin")
	p := envoytest.Start(t, envoy.Options{Admin: admin, Bootstrap: proxyTo(admin, "127.0.0.1:1")})
	envoytest.Live(t, p)
	first := p.PID()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); p.PID() == first || p.PID() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("Envoy was not started again")
		}
	}
	envoytest.Live(t, p)
}

func TestBadBootstrap(t *testing.T) {
	admin := filepath.Join(t.TempDir(), "admin")
	bad := []byte("static_resources: {clusters: [{name: x, connect_timeout: -1s}]}")
	p := envoytest.Start(t, envoy.Options{Admin: admin, Bootstrap: bad, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var exit *envoy.ExitError
	if err := p.Ready(ctx); !errors.As(err, &exit) || !strings.Contains(exit.LastWords, "connect_timeout") && !strings.Contains(exit.LastWords, "ConnectTimeout") {
		t.Errorf("got %v, want an ExitError that names the field", err)
	}
	if err := envoy.Validate(ctx, "", bad); err == nil {
		t.Error("a bad bootstrap passes for valid")
	}
	if err := envoy.Validate(ctx, "", proxyTo(admin, "127.0.0.1:1")); err != nil {
		t.Error(err)
	}
}

// TestGracefulEnd ends Envoy while a request is under way, which must get its
// answer.
func TestGracefulEnd(t *testing.T) {
	path := envoytest.Path(t)
	arrived, finish := make(chan struct{}), make(chan struct{})
	backend := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-finish
		_, _ = io.WriteString(w, "done")
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = backend.Serve(l) }()
	defer func() { _ = backend.Close() }()

	admin := filepath.Join(t.TempDir(), "admin")
	p, err := envoy.New(envoy.Options{
		Path: path, Admin: admin, Concurrency: 1, StopTimeout: time.Minute,
		Bootstrap: proxyTo(admin, l.Addr().String()),
		Logger:    slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	envoytest.Live(t, p)

	answer := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + frontAddr(t, p))
		if err == nil {
			var body []byte
			body, err = io.ReadAll(resp.Body)
			if string(body) != "done" {
				err = errors.Join(err, fmt.Errorf("%s %q", resp.Status, body))
			}
			_ = resp.Body.Close()
		}
		answer <- err
	}()
	<-arrived
	cancel()
	select {
	case err := <-ended:
		t.Fatalf("Envoy ended with a request under way: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	close(finish)
	if err := <-answer; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestOtherUser runs Envoy as a user that cannot see the folder of the binary.
func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("only root can run Envoy as another user")
		}
		t.Skip("only root can run Envoy as another user")
	}
	const uid = 1337
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(closed, "envoy")
	if err := os.Symlink(envoytest.Path(t), link); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, open := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chown(open, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	admin := filepath.Join(dir, "admin")
	t.Setenv("PATH", closed)
	p := envoytest.Start(t, envoy.Options{
		Admin: admin, Bootstrap: proxyTo(admin, "127.0.0.1:1"), Credential: &syscall.Credential{Uid: uid, Gid: uid},
	})
	envoytest.Live(t, p)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("\nUid:\t%d\t%d\t", uid, uid); !strings.Contains(string(status), want) {
		t.Errorf("Envoy runs as another user: %s", status)
	}
}

// TestNeverOutlives kills a process that runs an Envoy.
func TestNeverOutlives(t *testing.T) {
	const role = "SLUICE_TEST_ENVOY_ADMIN"
	if admin := os.Getenv(role); admin != "" {
		p := envoytest.Start(t, envoy.Options{Admin: admin, Bootstrap: proxyTo(admin, "127.0.0.1:1")})
		envoytest.Live(t, p)
		fmt.Printf("pid %d\n", p.PID())
		select {}
	}
	envoytest.Path(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestNeverOutlives$")
	cmd.Env = append(os.Environ(), role+"="+filepath.Join(t.TempDir(), "admin"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
			pid, _ = strconv.Atoi(text)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if pid == 0 {
		t.Fatal("the process did not start an Envoy")
	}
	for deadline := time.Now().Add(20 * time.Second); running(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("Envoy outlives the process that started it")
		}
	}
}

// running reports whether a process exists and is not a zombie.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}
