// Package hostile proves, with the program that users run, that a mistake in
// one manifest is told where it was made and changes nothing else: every input
// here is written beside manifests that are in use, and not one request that
// goes through these may fail.
package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/internal/echo"
	"github.com/sluicenet/sluice/internal/envoy/envoytest"
	"github.com/sluicenet/sluice/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(tests{m})) }

// tests removes the program when all have run.
type tests struct{ *testing.M }

// Run implements what [lab.Main] wants.
func (m tests) Run() int {
	defer func() { _ = os.RemoveAll(built) }()
	return m.M.Run()
}

// built is the directory of the program.
var built string

// patience is how long something may take on a machine that is busy with
// everything else; a good run waits for milliseconds.
const patience = 60 * time.Second

// program builds the program once.
var program = sync.OnceValues(func() (string, error) {
	var err error
	if built, err = os.MkdirTemp("", "sluice-hostile-"); err != nil {
		return "", err
	}
	path := filepath.Join(built, "sluice")
	build := exec.Command("go", "build", "-o", path, "github.com/sluicenet/sluice/cmd/sluice")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build, whose work is in the cache then
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// binary returns the path of the program.
func binary(t *testing.T) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// world is a node with pods, a client outside and a sluice that reads a
// directory.
type world struct {
	t      *testing.T
	node   *lab.Node
	pods   []*lab.Pod
	client *lab.Client
	binary string
	dir    string // the manifests
	state  string
	admin  *admin.Client
	log    *journal
	ended  chan error // of sluice
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, binary: binary(t), state: t.TempDir(), log: &journal{}, ended: make(chan error, 1)}
	w.dir = filepath.Join(w.state, "manifests")
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l := lab.ForTest(t, lab.Options{})
	w.node, w.client = l.MustNode("node1"), l.MustClient("client")
	for i := range 2 {
		pod := w.node.MustPod(fmt.Sprintf("pod%d", i))
		if _, err := echo.Start(echo.Config{Name: pod.Name(), HTTP: "[::]:8080", TCP: "[::]:9000"}, pod); err != nil {
			t.Fatal(err)
		}
		w.pods = append(w.pods, pod)
	}
	w.admin = admin.NewClient(w.socket())
	return w
}

func (w *world) socket() string { return filepath.Join(w.state, "sluice.sock") }

// dns is the address of the node's DNS server.
func (w *world) dns() netip.AddrPort { return netip.AddrPortFrom(w.node.IPv4(), 53) }

// arguments are those of a sluice that serves the directory.
func (w *world) arguments(more ...string) []string {
	var cidrs []string
	for _, p := range w.node.PodCIDRs() {
		cidrs = append(cidrs, p.String())
	}
	return append([]string{
		"up", "--manifests", w.dir, "--node-name", w.node.Name(), "--state-dir", filepath.Join(w.state, "state"),
		"--socket", w.socket(), "--metrics", "", "--xds-address", "", "--dns-listen", w.dns().String(),
		"--dns-upstreams", "127.0.0.1:9", "--proxy-cluster-cidrs", strings.Join(cidrs, ","),
		"--gateways-addresses", w.node.IPv4().String(), "--envoy", envoytest.Path(w.t),
	}, more...)
}

// start runs sluice until the test ends.
func (w *world) start() {
	w.t.Helper()
	cmd := w.node.Command(w.t.Context(), w.binary, w.arguments()...)
	cmd.Stdout, cmd.Stderr = w.log, w.log
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { w.ended <- cmd.Wait() }()
}

// write replaces a manifest as an editor does.
func (w *world) write(t *testing.T, name, text string) {
	t.Helper()
	path, tmp := filepath.Join(w.dir, name), filepath.Join(w.state, "next")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

// problems returns what `sluice get problems` shows, a line each.
func (w *world) problems() ([]string, error) {
	table, err := w.admin.Table(context.Background(), "problems")
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, r := range table.Rows {
		lines = append(lines, strings.Join(r.Cells, " "))
	}
	return lines, nil
}

// objects returns what is in force.
func (w *world) objects() ([]string, error) {
	var out []string
	for _, resource := range []string{
		"services", "endpointslices", "secrets", "ingresses", "ingressclasses", "gatewayclasses", "gateways", "httproutes",
		"virtualservices", "destinationrules", "peerauthentications",
	} {
		table, err := w.admin.Table(context.Background(), resource)
		if err != nil {
			return nil, err
		}
		for _, r := range table.Rows {
			out = append(out, resource+" "+r.Namespace+"/"+r.Name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// proxies returns since when which Envoys are connected.
func (w *world) proxies() (map[string]string, error) {
	table, err := w.admin.Table(context.Background(), "proxies")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, r := range table.Rows {
		b, err := json.Marshal(r.Object)
		if err != nil {
			return nil, err
		}
		var proxy struct{ Connected time.Time }
		if err := json.Unmarshal(b, &proxy); err != nil {
			return nil, err
		}
		out[r.Name] = proxy.Connected.String()
	}
	return out, nil
}

// until waits until f says nothing.
func until(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// found returns an error unless each of wanted is among the lines. An ellipsis
// stands for any text within a line.
func found(lines, wanted []string) error {
	for _, want := range wanted {
		if !slices.ContainsFunc(lines, func(line string) bool { return matches(line, want) }) {
			return fmt.Errorf("nothing says\n  %s\nin\n  %s", want, strings.Join(lines, "\n  "))
		}
	}
	return nil
}

func matches(line, want string) bool {
	for part := range strings.SplitSeq(want, " … ") {
		_, rest, ok := strings.Cut(line, part)
		if !ok {
			return false
		}
		line = rest
	}
	return true
}

// journal is the log of a process.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

// String returns the end of it.
func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.buf.String()
	return s[max(0, len(s)-1<<15):]
}
