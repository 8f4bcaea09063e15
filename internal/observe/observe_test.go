package observe

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func get(s *Server, path string) (int, string) {
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

func TestHealth(t *testing.T) {
	s := New("v1")
	var proxy error
	s.Check("proxy", func() error { return proxy })
	s.Check("dns", func() error { return nil })
	if code, body := get(s, "/healthz"); code != 200 || body != "dns: ok\nproxy: ok\nok\n" {
		t.Errorf("%d %q", code, body)
	}
	proxy = errors.New("not synced")
	if code, body := get(s, "/healthz"); code != 503 || body != "dns: ok\nproxy: not synced\n" {
		t.Errorf("%d %q", code, body)
	}
	proxy = &Warning{errors.New("slow")}
	if code, body := get(s, "/healthz"); code != 200 || body != "dns: ok\nproxy: warning: slow\nok\n" {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := get(s, "/livez"); code != 200 {
		t.Errorf("livez %d", code)
	}
}

func TestMetrics(t *testing.T) {
	_, body := get(New("v1"), "/metrics")
	for _, want := range []string{`sluice_build_info{version="v1"} 1`, "go_goroutines", "process_resident_memory_bytes"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestHandle(t *testing.T) {
	s := New("v1")
	if code, _ := get(s, "/more"); code != 404 {
		t.Errorf("before: %d", code)
	}
	s.Handle("/more", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("more")) }))
	if code, body := get(s, "/more"); code != 200 || body != "more" {
		t.Errorf("after: %d %q", code, body)
	}
}
