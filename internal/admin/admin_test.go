package admin

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var people = Table{
	Columns: []Column{{Name: "NAMESPACE"}, {Name: "NAME"}, {Name: "AGE", Wide: true}},
	Rows: []Row{
		{Namespace: "a", Name: "ann", Cells: []string{"a", "ann", "40\nor so"}, Object: map[string]any{"name": "ann"}},
		{Namespace: "b", Name: "bob", Cells: []string{"b", "bob"}, Object: map[string]any{"name": "bob"}},
	},
}

// serve runs a server and returns its socket and a function that ends it.
func serve(t *testing.T, s *Server, path string) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, path) }()
	c := NewClient(path)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := c.Table(ctx, "people"); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func server() *Server {
	return &Server{
		Tables: map[string]Lister{"people": func() Table { return people }},
		Questions: map[string]Asker{"who": func(_ context.Context, q url.Values) (any, error) {
			if q.Get("name") == "" {
				return nil, errors.New("name: expected one")
			}
			return map[string]string{"hello": q.Get("name")}, nil
		}},
		Log: slog.Default(),
	}
}

func TestAsk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "s")
	defer serve(t, server(), path)()
	c := NewClient(path)
	var answer map[string]string
	if err := c.Ask(t.Context(), "who", url.Values{"name": {"eve"}}, &answer); err != nil || answer["hello"] != "eve" {
		t.Errorf("answer %v, error %v", answer, err)
	}
	if err := c.Ask(t.Context(), "who", nil, &answer); err == nil || err.Error() != "name: expected one" {
		t.Errorf("error %v", err)
	}
	if err := c.Ask(t.Context(), "what", nil, &answer); err == nil || !strings.Contains(err.Error(), `"what"`) {
		t.Errorf("error %v", err)
	}
	if _, err := c.Table(t.Context(), "dogs"); err == nil || !strings.Contains(err.Error(), `no resource "dogs"; there are people`) {
		t.Errorf("error %v", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	_, err := NewClient(path).Table(t.Context(), "people")
	if err == nil || !strings.Contains(err.Error(), "no sluice answers on "+path) {
		t.Errorf("error %v", err)
	}
}

// TestSocketIsTakenOver proves that a socket of a process that is gone is
// replaced, and one that is alive is not.
func TestSocketIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stop := serve(t, server(), path)
	if err := server().Run(t.Context(), path); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("second server: %v", err)
	}
	stop()
	l, err := listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	// A crash leaves the file.
	l.(interface{ SetUnlinkOnClose(bool) }).SetUnlinkOnClose(false)
	_ = l.Close()
	serve(t, server(), path)()
}

func TestPrint(t *testing.T) {
	for format, want := range map[string]string{
		"":     "NAMESPACE   NAME\na           ann\nb           bob\n",
		"wide": "NAMESPACE   NAME   AGE\na           ann    40; or so\nb           bob    <none>\n",
		"name": "people/ann\npeople/bob\n",
		"yaml": "apiVersion: v1\nitems:\n- name: ann\n- name: bob\nkind: List\n",
	} {
		var b bytes.Buffer
		if err := Print(&b, people, "people", format); err != nil || b.String() != want {
			t.Errorf("-o %q: %v\n%s\nwant\n%s", format, err, b.String(), want)
		}
	}
	if err := Print(&bytes.Buffer{}, people, "people", "xml"); err == nil {
		t.Error("-o xml is taken")
	}
}

func TestSelect(t *testing.T) {
	one, err := Select(people, "b", nil)
	if err != nil || len(one.Rows) != 1 || one.Rows[0].Name != "bob" {
		t.Errorf("namespace b: %v, %v", one.Rows, err)
	}
	if one, err = Select(people, "", []string{"ann"}); err != nil || len(one.Rows) != 1 {
		t.Errorf("ann: %v, %v", one.Rows, err)
	}
	var b bytes.Buffer
	if err := Print(&b, one, "people", "json"); err != nil || b.String() != "{\n    \"name\": \"ann\"\n}\n" {
		t.Errorf("one object: %v %s", err, b.String())
	}
	if _, err := Select(people, "a", []string{"bob"}); err == nil || err.Error() != `"bob" not found` {
		t.Errorf("bob in a: %v", err)
	}
}

// TestSuccessorKeepsItsSocket proves that who ends removes its own socket, and
// not that of a process which has taken over.
func TestSuccessorKeepsItsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	end := serve(t, server(), path)
	next := server()
	next.TakeOver = true
	next.Questions["new"] = func(context.Context, url.Values) (any, error) { return true, nil }
	endNext := serve(t, next, path)
	// A client keeps its connection, which may be to the first one.
	var is bool
	for deadline := time.Now().Add(20 * time.Second); NewClient(path).Ask(t.Context(), "new", nil, &is) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the successor does not answer")
		}
	}
	end()
	if err := NewClient(path).Ask(t.Context(), "new", nil, &is); err != nil {
		t.Errorf("after the first one's end: %v", err)
	}
	endNext()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}
