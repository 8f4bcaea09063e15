package demo

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/envoy/envoytest"
)

// TestDemo is the demo itself: the program that users build, on both nodes, and
// every line of the table.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	needsLab(t)
	envoy := envoytest.Path(t)
	binary := filepath.Join(t.TempDir(), "sluice")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/sluicenet/sluice/cmd/sluice")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build, whose work is in the cache then
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "demo", "--envoy", envoy).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "\n  ok  "); n < 20 || !strings.Contains(string(out), "lines as expected") {
		t.Errorf("only %d lines:\n%s", n, out)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "sluice-demo-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
