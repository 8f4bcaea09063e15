// Package admin is how `sluice get` and `sluice trace` ask a running process:
// HTTP over a Unix socket, which only the user that runs the process may open.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Table is what `get` prints: kubectl's way of a table with the objects that
// its rows stand for.
type Table struct {
	Columns []Column `json:"columns"`
	Rows    []Row    `json:"rows"`
	// One says that one object was asked for by its name: it is printed
	// without a List around it.
	One bool `json:"-"`
}

// Column is one column of a [Table].
type Column struct {
	Name string `json:"name"`
	Wide bool   `json:"wide,omitempty"` // only shown by -o wide
}

// Row is one line of a [Table].
type Row struct {
	Namespace string   `json:"namespace,omitempty"` // empty for what has none
	Name      string   `json:"name"`
	Cells     []string `json:"cells"`
	Object    any      `json:"object,omitempty"`
}

// Lister makes the table of one resource as it is now.
type Lister func() Table

// Asker answers a question whose words are the query's parameters.
type Asker func(ctx context.Context, q url.Values) (any, error)

// Server answers on a Unix socket.
type Server struct {
	// Tables by the resource's name, such as "services".
	Tables map[string]Lister
	// Wide has tables that take the place of those when all of their columns, or
	// their objects, are asked for.
	Wide map[string]Lister
	// Questions by name, such as "trace".
	Questions map[string]Asker
	Log       *slog.Logger
	// TakeOver replaces a socket on which somebody answers, whose questions we
	// answer from then on.
	TakeOver bool
}

// Run serves on the socket until the context ends. A socket that a process
// which is gone left behind is replaced; one on which somebody answers is an
// error.
func (s *Server) Run(ctx context.Context, path string) error {
	open := listen
	if s.TakeOver {
		open = replace
	}
	l, err := open(ctx, path)
	if err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	defer removeOwn(path)()
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin socket: %w", err)
	}
	return nil
}

// removeOwn returns what removes the socket that is there now, unless a successor
// has put its own in its place by then.
func removeOwn(path string) func() {
	own, err := os.Lstat(path)
	return func() {
		if now, gone := os.Lstat(path); err == nil && gone == nil && os.SameFile(own, now) {
			_ = os.Remove(path)
		}
	}
}

func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		var d net.Dialer
		if c, dialErr := d.DialContext(ctx, "unix", path); dialErr == nil {
			_ = c.Close()
			return nil, fmt.Errorf("%s: another process answers there; stop it, or choose another --socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		l, err = lc.Listen(ctx, "unix", path)
	}
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, os.Chmod(path, 0o600)
}

// replace makes a socket beside the one that is there and puts it in its place.
func replace(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	beside := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", beside)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(beside, 0o600); err == nil {
		err = os.Rename(beside, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(beside))
	}
	return l, nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /tables/{name}", func(w http.ResponseWriter, r *http.Request) {
		name := strings.ToLower(r.PathValue("name"))
		list, ok := s.Tables[name]
		if wide := s.Wide[name]; wide != nil && r.URL.Query().Has("wide") {
			list = wide
		}
		if !ok {
			reply(w, nil, fmt.Errorf("there is no resource %q; there are %s", r.PathValue("name"), strings.Join(s.plurals(), ", ")))
			return
		}
		reply(w, list(), nil)
	})
	mux.HandleFunc("GET /ask/{name}", func(w http.ResponseWriter, r *http.Request) {
		ask, ok := s.Questions[r.PathValue("name")]
		if !ok {
			known := slices.Sorted(maps.Keys(s.Questions))
			reply(w, nil, fmt.Errorf("this process does not answer %q, only %s; --socket names another one", r.PathValue("name"), strings.Join(known, ", ")))
			return
		}
		answer, err := ask(r.Context(), r.URL.Query())
		reply(w, answer, err)
	})
	return mux
}

// plurals lists the resources by one name each: neither the singular nor the
// short one.
func (s *Server) plurals() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.Tables)) {
		if s.Tables[name+"s"] == nil && s.Tables[name+"es"] == nil && len(name) > len("gtw") {
			out = append(out, name)
		}
	}
	return out
}

// problem is what a failed request is answered with.
type problem struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, answer any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		answer = problem{err.Error()}
	}
	// The client is gone if this fails.
	_ = json.NewEncoder(w).Encode(answer)
}
