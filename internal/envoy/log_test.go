package envoy

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestLog(t *testing.T) {
	var out bytes.Buffer
	w := &logWriter{log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))}
	for _, part := range []string{
		"info\tmain\tstarting\nwarning\tconfig\tgRPC config ", "stream closed\ncritical\tmain\terror: a\\nb\n",
		"\nlibc++: abort\n", "error\tunterminated",
	} {
		if n, err := w.Write([]byte(part)); err != nil || n != len(part) {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	want := `level=WARN msg="gRPC config stream closed" logger=config
level=ERROR msg="error: a\\nb" logger=main
level=WARN msg="libc++: abort" logger=stderr
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := w.lastWords(), `gRPC config stream closed; error: a\nb; libc++: abort`; got != want {
		t.Errorf("last words %q, want %q", got, want)
	}
	out.Reset()
	w.ending.Store(true)
	w.line("warning\tmain\tcaught ENVOY_SIGTERM")
	if out.Len() > 0 {
		t.Errorf("the end that was asked for warns: %s", &out)
	}
	for range 3 * tailLines {
		w.line("error\tmain\tagain")
	}
	if got := strings.Count(w.lastWords(), "again"); got != tailLines {
		t.Errorf("%d last words are kept, want %d", got, tailLines)
	}
}
