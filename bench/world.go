package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicenet/sluice/internal/echo"
	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/lab"
)

type options struct {
	binary  string
	verbose bool
}

// world is one node with pods, a client outside and a sluice that reads a
// directory.
type world struct {
	lab    *lab.Lab
	node   *lab.Node
	pods   []*lab.Pod
	client *lab.Client
	dir    string // the manifests
	state  string
	envoy  string   // its path
	trash  []string // folders to remove at the end
	log    tail
	opt    options
	cmd    *lab.Cmd
}

// newWorld makes the node and pods with an echo server each.
func newWorld(opt options, pods int) (w *world, err error) {
	l, err := lab.New(lab.Options{})
	if err != nil {
		return nil, err
	}
	w = &world{lab: l, opt: opt}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.opt.binary, err = filepath.Abs(opt.binary); err != nil {
		return nil, err
	}
	if w.envoy, err = envoy.Find(""); err != nil {
		return nil, err
	}
	if w.state, err = os.MkdirTemp("", "sluice-bench-"); err != nil {
		return nil, err
	}
	w.log.File = os.Stderr
	if !opt.verbose {
		if w.log.File, err = os.Create(filepath.Join(w.state, "log")); err != nil {
			return nil, err
		}
	}
	w.dir = filepath.Join(w.state, "manifests")
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		return nil, err
	}
	if w.node, err = l.Node("node1"); err != nil {
		return nil, err
	}
	if w.client, err = l.Client("client"); err != nil {
		return nil, err
	}
	for i := range pods {
		pod, err := w.node.Pod(fmt.Sprintf("pod%d", i))
		if err != nil {
			return nil, err
		}
		if _, err := echo.Start(echo.Config{Name: pod.Name(), HTTP: "[::]:8080", TCP: "[::]:9000"}, pod); err != nil {
			return nil, err
		}
		w.pods = append(w.pods, pod)
	}
	return w, nil
}

// start runs `sluice up` on the directory.
func (w *world) start(ctx context.Context) error {
	w.cmd = w.node.Command(ctx, w.opt.binary, "up",
		"--manifests", w.dir,
		"--node-name", w.node.Name(),
		"--state-dir", filepath.Join(w.state, "state"),
		"--socket", w.socket(),
		"--metrics", "",
		"--dns-listen", w.dns(),
		"--dns-upstreams", "127.0.0.1:9",
		"--proxy-cluster-cidrs", prefixes(w.node.PodCIDRs()),
		"--gateways-addresses", w.node.IPv4().String(),
		"--xds-address", netip.AddrPortFrom(w.node.IPv4(), 15012).String(),
	)
	w.cmd.Stdout, w.cmd.Stderr = w.log.File, w.log.File
	return w.cmd.Start()
}

// kill ends sluice as a crash would, and waits until it is gone.
func (w *world) kill() error {
	if err := w.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = w.cmd.Wait() // it says that it was killed
	return nil
}

func (w *world) close() {
	w.lab.Close()
	for _, dir := range append(w.trash, w.state) {
		_ = os.RemoveAll(dir)
	}
}

func (w *world) socket() string { return filepath.Join(w.state, "sluice.sock") }

func (w *world) dns() string { return netip.AddrPortFrom(w.node.IPv4(), 53).String() }

func prefixes(list []netip.Prefix) string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return strings.Join(out, ",")
}

// write replaces a manifest as an editor does: a new file, then a rename. It
// returns the moment before the rename.
func (w *world) write(name, text string) (time.Time, error) {
	tmp := filepath.Join(w.state, "next")
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return time.Time{}, err
	}
	start := time.Now()
	return start, os.Rename(tmp, filepath.Join(w.dir, name))
}

// until calls f in a tight loop until it holds.
func until(ctx context.Context, limit time.Duration, f func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		ok, err := f()
		if ok {
			return nil
		}
		if err != nil {
			last = err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("not in force after %v: %w; last: %w", limit, ctx.Err(), last)
		}
	}
}

// answer is what a request brought.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask makes one request by a client that keeps its connection.
func ask(ctx context.Context, c *http.Client, address, host string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return answer{}, err
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, errors.Join(err, resp.Body.Close())
}

// hostname asks the TCP echo server behind an address who it is.
func hostname(ctx context.Context, from *lab.Namespace, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := from.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("\n")); err != nil {
		return "", err
	}
	b := make([]byte, 256)
	n, err := c.Read(b)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b[:n])), nil
}

// tail is a log in a file, for a gateway that sluice started goes on writing
// when it is gone.
type tail struct{ *os.File }

// String returns the end of the log.
func (t tail) String() string {
	b, err := os.ReadFile(t.Name())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-1<<13):])
}
