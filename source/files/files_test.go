package files

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// fixture is a source that runs on a directory of its own.
type fixture struct {
	t     *testing.T
	dir   string
	store *model.Store
	board *status.Board
	src   *Source

	patience patience // zero: the usual
}

// start fills the directory with files, given as path and text in turn, and
// runs a source on it.
func start(t *testing.T, files ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir()}
	f.start(files...)
	return f
}

func (f *fixture) start(files ...string) {
	f.t.Helper()
	for i := 0; i < len(files); i += 2 {
		f.write(files[i], files[i+1])
	}
	f.run(f.dir)
}

func (f *fixture) run(dir string) {
	f.t.Helper()
	f.store, f.board = model.NewStore(), status.NewBoard()
	f.src = New(Options{Dir: dir, Store: f.store, Board: f.board, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Rescan: time.Hour})
	if f.patience != (patience{}) {
		f.src.patience = f.patience
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.src.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-f.src.Ready():
	case err := <-done:
		done <- err
		f.t.Fatalf("Run ended: %v", err)
	case <-time.After(30 * time.Second):
		f.t.Fatal("not ready")
	}
}

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) write(name, text string) {
	f.t.Helper()
	if err := os.MkdirAll(filepath.Dir(f.path(name)), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(f.path(name), []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) do(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// until waits for a condition on the newest snapshot.
func (f *fixture) until(what string, cond func(*model.Snapshot) bool) {
	f.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond(f.store.Snapshot()) {
		if time.Now().After(deadline) {
			f.t.Fatalf("not in time: %s\nproblems: %v", what, f.src.Problems())
		}
		time.Sleep(time.Millisecond)
	}
}

// ports waits until the Services of namespace default are these, each as
// "name:port".
func (f *fixture) ports(want ...string) {
	f.t.Helper()
	f.until(strings.Join(want, " "), func(s *model.Snapshot) bool {
		return servicePorts(s) == strings.Join(want, " ")
	})
}

func servicePorts(s *model.Snapshot) string {
	var got []string
	for svc := range model.Services.All(s) {
		got = append(got, fmt.Sprintf("%s:%d", svc.Name, svc.Ports[0].Port))
	}
	return strings.Join(got, " ")
}

// problem waits until a problem holds this text.
func (f *fixture) problem(text string) {
	f.t.Helper()
	f.until("problem "+text, func(*model.Snapshot) bool {
		for _, p := range f.src.Problems() {
			if strings.Contains(p.Error(), text) {
				return true
			}
		}
		return false
	})
}

func (f *fixture) noProblems() {
	f.t.Helper()
	f.until("no problems", func(*model.Snapshot) bool { return len(f.src.Problems()) == 0 })
}

// condition returns the condition that the source sets on a Service.
func (f *fixture) condition(name string) *metav1.Condition {
	r := f.board.Get(model.Key{Kind: model.KindService, Namespace: "default", Name: name})[Part]
	if len(r.Conditions) == 0 {
		return nil
	}
	return &r.Conditions[0]
}

func service(name string, port any) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata:\n  name: %s\nspec:\n  ports:\n  - port: %v\n", name, port)
}

func TestFirstLoad(t *testing.T) {
	f := start(t,
		"a.yaml", service("web", 80)+"---\n"+service("db", 5432),
		"sub/deeper/b.json", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"api"},"spec":{"ports":[{"port":8080}]}}`,
		"notes.txt", "not a manifest",
		".hidden.yaml", service("hidden", 1),
		".git/x.yaml", service("hidden", 1),
	)
	f.ports("api:8080", "db:5432", "web:80")
	if !f.store.Snapshot().Synced(model.KindService, model.KindGateway, model.KindVirtualService) {
		t.Error("kinds are not marked as synced")
	}
	if got := f.board.Get(model.Key{Kind: model.KindService, Namespace: "default", Name: "db"})[Part].Where; got != "a.yaml:9" {
		t.Errorf("db is said to be at %q", got)
	}
	f.noProblems()
}

func TestChangeAddRemoveRename(t *testing.T) {
	f := start(t, "a.yaml", service("web", 80), "b.yaml", service("db", 1))
	f.write("a.yaml", service("web", 81))
	f.ports("db:1", "web:81")
	f.write("new/c.yaml", service("api", 2))
	f.ports("api:2", "db:1", "web:81")
	f.do(os.Remove(f.path("b.yaml")))
	f.ports("api:2", "web:81")
	f.do(os.Rename(f.path("new"), f.path("moved")))
	f.write("moved/c.yaml", service("api", 3))
	f.ports("api:3", "web:81")
	f.do(os.Rename(f.path("moved/c.yaml"), f.path("c.yaml")))
	f.write("c.yaml", service("api", 4))
	f.ports("api:4", "web:81")
	f.do(os.RemoveAll(f.path("moved")))
	f.do(os.Rename(f.path("c.yaml"), f.path("c.off")))
	f.ports("web:81")
	f.do(os.Link(f.path("c.off"), f.path("d.yml")))
	f.ports("api:4", "web:81")
}

// TestRenameKeeps proves that moving a file, or a folder, is no change at all.
func TestRenameKeeps(t *testing.T) {
	f := start(t, "a.yaml", service("web", 80))
	w := f.store.Watch()
	defer w.Stop()
	if _, err := w.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.do(os.Rename(f.path("a.yaml"), f.path("b.yaml")))
	f.until("moved", func(*model.Snapshot) bool {
		return f.board.Get(model.Key{Kind: model.KindService, Namespace: "default", Name: "web"})[Part].Where == "b.yaml:1"
	})
	f.write("c.yaml", service("other", 1))
	up, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(up.Changed) != 1 || up.Changed[0].Name != "other" {
		t.Errorf("changed: %v", up.Changed)
	}
}

// TestEditors proves that the ways in which editors write never make an object
// go, not even for a moment.
func TestEditors(t *testing.T) {
	// No machine is so busy that an editor takes longer.
	f := &fixture{t: t, dir: t.TempDir(), patience: patience{unclosed: time.Minute, gone: time.Minute, mending: time.Minute}}
	f.start("a.yaml", service("web", 80))
	w := f.store.Watch()
	defer w.Stop()
	gone := make(chan uint64, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			up, err := w.Next(ctx)
			if err != nil {
				return
			}
			if model.Services.Len(up.New) == 0 {
				gone <- up.New.Revision()
				return
			}
		}
	}()
	for port := 81; port < 140; port += 4 {
		// Write beside and move over it.
		f.write(".a.yaml.tmp", service("web", port))
		f.do(os.Rename(f.path(".a.yaml.tmp"), f.path("a.yaml")))
		f.ports(fmt.Sprintf("web:%d", port))
		// Truncate and write, in pieces.
		out, err := os.Create(f.path("a.yaml"))
		f.do(err)
		text := service("web", port+1)
		_, err = out.WriteString(text[:20])
		f.do(err)
		time.Sleep(2 * time.Millisecond)
		_, err = out.WriteString(text[20:])
		f.do(err)
		f.do(out.Close())
		f.ports(fmt.Sprintf("web:%d", port+1))
		// Move away, write anew.
		f.do(os.Rename(f.path("a.yaml"), f.path("a.yaml~")))
		f.write("a.yaml", service("web", port+2))
		f.ports(fmt.Sprintf("web:%d", port+2))
		// Empty it first, then append.
		f.do(os.Truncate(f.path("a.yaml"), 0))
		out, err = os.OpenFile(f.path("a.yaml"), os.O_APPEND|os.O_WRONLY, 0)
		f.do(err)
		_, err = out.WriteString(service("web", port+3))
		f.do(err)
		f.do(out.Close())
		f.ports(fmt.Sprintf("web:%d", port+3))
	}
	cancel()
	<-done
	select {
	case rev := <-gone:
		t.Errorf("the Service was gone at revision %d", rev)
	default:
	}
	f.noProblems()
}

// TestKeptOpen proves that a file is read although its writer never closes it.
func TestKeptOpen(t *testing.T) {
	f := start(t)
	out, err := os.Create(f.path("a.yaml"))
	f.do(err)
	defer func() { _ = out.Close() }()
	_, err = out.WriteString(service("web", 80))
	f.do(err)
	f.ports("web:80")
}

// TestAtomicSwap swaps a volume as kubelet does: the files are links into
// ..data, which is a link to a folder with the time in its name.
func TestAtomicSwap(t *testing.T) {
	dir := t.TempDir()
	f := &fixture{t: t, dir: dir}
	f.write("..2024_01/web.yaml", service("web", 80))
	f.write("..2024_01/db.yaml", service("db", 1))
	f.do(os.Symlink("..2024_01", f.path("..data")))
	f.do(os.Symlink("..data/web.yaml", f.path("web.yaml")))
	f.do(os.Symlink("..data/db.yaml", f.path("db.yaml")))
	f.run(dir)
	f.ports("db:1", "web:80")
	for i := range 3 {
		next := fmt.Sprintf("..2024_%02d", i+2)
		f.write(next+"/web.yaml", service("web", 81+i))
		f.write(next+"/db.yaml", service("db", 2+i))
		f.do(os.Symlink(next, f.path("..data_tmp")))
		before := f.store.Snapshot().Revision()
		f.do(os.Rename(f.path("..data_tmp"), f.path("..data")))
		f.do(os.RemoveAll(f.path(fmt.Sprintf("..2024_%02d", i+1))))
		f.ports(fmt.Sprintf("db:%d", 2+i), fmt.Sprintf("web:%d", 81+i))
		if got := f.store.Snapshot().Revision(); got != before+1 {
			t.Errorf("the swap took %d updates", got-before)
		}
	}
	f.noProblems()
}

// TestSwappedRoot swaps the directory itself, and a folder in it.
func TestSwappedRoot(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir()}
	f.write("v1/web.yaml", service("web", 80))
	f.write("v2/web.yaml", service("web", 81))
	f.write("w1/db.yaml", service("db", 1))
	f.write("w2/db.yaml", service("db", 2))
	f.do(os.Symlink("../w1", f.path("v2/sub")))
	f.do(os.Symlink("v1", f.path("current")))
	f.run(f.path("current"))
	f.ports("web:80")
	swap := func(target, link string) {
		t.Helper()
		f.do(os.Symlink(target, f.path("tmp")))
		f.do(os.Rename(f.path("tmp"), f.path(link)))
	}
	swap("v2", "current")
	f.ports("db:1", "web:81")
	f.write("w1/db.yaml", service("db", 3)) // behind two links
	f.ports("db:3", "web:81")
	swap("../w2", "v2/sub")
	f.ports("db:2", "web:81")
}

// TestOneUpdate proves that many files changed at once are one update.
func TestOneUpdate(t *testing.T) {
	f := start(t)
	other := t.TempDir()
	for i := range 50 {
		f.do(os.WriteFile(filepath.Join(other, fmt.Sprintf("%02d.yaml", i)), []byte(service(fmt.Sprintf("s%02d", i), 80)), 0o644))
	}
	before := f.store.Snapshot().Revision()
	f.do(os.Rename(other, f.path("sub")))
	f.until("all Services", func(s *model.Snapshot) bool { return model.Services.Len(s) == 50 })
	if got := f.store.Snapshot().Revision(); got != before+1 {
		t.Errorf("%d updates", got-before)
	}
}

func TestLastGoodStays(t *testing.T) {
	f := start(t, "a.yaml", service("web", 80)+"---\n"+service("db", 1), "b.yaml", service("api", 2))
	f.write("a.yaml", service("web", 0)+"---\n"+service("db", 3))
	f.ports("api:2", "db:3", "web:80")
	f.problem(`a.yaml:7: Service default/web: spec.ports[0].port: must be a number from 1 to 65535, found 0`)
	if c := f.condition("web"); c == nil || c.Type != "Accepted" || c.Status != metav1.ConditionFalse || c.Reason != "Invalid" || !strings.HasPrefix(c.Message, "a.yaml:7: Service default/web: spec.ports[0].port: ") {
		t.Errorf("condition: %+v", c)
	}
	if c := f.condition("db"); c != nil {
		t.Errorf("condition on db: %+v", c)
	}
	// A document that does not parse has no name; what it was stays.
	f.write("a.yaml", service("db", 4)+"---\nkind: [\n")
	f.problem("a.yaml:9: not YAML: ")
	f.ports("api:2", "db:4", "web:80")
	if c := f.condition("web"); c == nil || c.Reason != "ParseError" {
		t.Errorf("condition: %+v", c)
	}
	// Mended, and web left out: now it goes.
	f.write("a.yaml", service("db", 4))
	f.ports("api:2", "db:4")
	f.noProblems()
	if c := f.condition("web"); c != nil {
		t.Errorf("condition on what is gone: %+v", c)
	}
}

func TestNeverGood(t *testing.T) {
	f := start(t, "a.yaml", service("web", 0))
	f.problem("a.yaml:7: Service default/web")
	f.ports()
	f.write("a.yaml", service("web", 80))
	f.ports("web:80")
	f.noProblems()
}

func TestSameObjectTwice(t *testing.T) {
	f := start(t, "b.yaml", service("web", 80), "c.yaml", service("web", 81))
	f.ports("web:80")
	f.problem("c.yaml:1: Service default/web: is defined at b.yaml:1 already; this one is left out")
	if c := f.condition("web"); c == nil || c.Reason != "Duplicate" {
		t.Errorf("condition: %+v", c)
	}
	f.do(os.Remove(f.path("b.yaml")))
	f.ports("web:81")
	f.noProblems()
	f.write("a.yaml", service("web", 79)) // sorts before
	f.ports("web:79")
	f.write("a.yaml", service("web", 0)) // its last good version stays the first
	f.problem("a.yaml:7: ")
	f.ports("web:79")
}

func TestTooLarge(t *testing.T) {
	f := start(t, "a.yaml", service("web", 80))
	f.write("a.yaml", service("web", 81)+strings.Repeat("# filler\n", 1<<19))
	f.problem("a.yaml: is larger than the limit of 4194304 bytes")
	f.ports("web:80")
	if c := f.condition("web"); c == nil || c.Reason != "TooLarge" {
		t.Errorf("condition: %+v", c)
	}
	f.write("a.yaml", service("web", 82))
	f.ports("web:82")
	f.noProblems()
}

func TestUnknownKind(t *testing.T) {
	f := start(t, "a.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\n"+service("web", 80))
	f.ports("web:80")
	f.problem("a.yaml:1: Deployment web: left alone")
}

func TestDirectoryGoesAndComes(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir()}
	f.write("m/a.yaml", service("web", 80))
	f.run(f.path("m"))
	f.do(os.Rename(f.path("m"), f.path("n")))
	f.problem("no such file")
	f.ports("web:80")
}

func TestMissingDirectory(t *testing.T) {
	err := New(Options{Dir: "/nonexistent/manifests", Store: model.NewStore()}).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/manifests") {
		t.Errorf("Run: %v", err)
	}
}

func TestGeneration(t *testing.T) {
	gw := func(port int) string {
		return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw}\nspec:\n  gatewayClassName: sluice\n  listeners: [{name: a, port: %d, protocol: HTTP}]\n", port)
	}
	f := start(t, "a.yaml", gw(80))
	f.write("a.yaml", "# a comment\n"+gw(80))
	f.until("line 2", func(*model.Snapshot) bool {
		return f.board.Get(model.Key{Kind: model.KindGateway, Namespace: "default", Name: "gw"})[Part].Where == "a.yaml:2"
	})
	f.write("a.yaml", gw(81))
	f.until("port 81", func(s *model.Snapshot) bool {
		g, ok := model.Gateways.Get(s, "default", "gw")
		return ok && g.Spec.Listeners[0].Port == 81 && g.Generation == 2
	})
}
