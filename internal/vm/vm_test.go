package vm

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// onlyInGuest is a probe that no machine passes but the guest.
func onlyInGuest() error {
	if !Guest() {
		return errors.New("this is no guest")
	}
	return nil
}

func TestHere(t *testing.T) {
	if !Here(t, onlyInGuest) {
		return
	}
	t.Run("Kernel", func(t *testing.T) {
		if b, err := os.ReadFile("/proc/version"); err != nil || !strings.Contains(string(b), "debian") {
			t.Errorf("the kernel is %s (%v)", b, err)
		}
	})
	t.Run("Folder", func(t *testing.T) {
		if _, err := os.Stat("vm_test.go"); err != nil {
			t.Error(err)
		}
		// What is written is forgotten with the guest.
		if err := os.WriteFile("written-by-guest", nil, 0o600); err != nil {
			t.Error(err)
		}
	})
}

// TestResult lets tests fail in a guest.
func TestResult(t *testing.T) {
	if Guest() {
		t.Log("this fails in the guest")
		t.Fail()
		return
	}
	var lines strings.Builder
	err := run(t.Context(), t.Name(), func(line string) { lines.WriteString(line + "\n") })
	if err == nil || errors.Is(err, errNoGuest) {
		if os.Getenv("CI") == "" && err != nil {
			t.Skip(err)
		}
		t.Errorf("a test that fails in the guest ended with: %v", err)
	}
	if !strings.Contains(lines.String(), "this fails in the guest") || !strings.Contains(lines.String(), "--- FAIL: TestResult") {
		t.Errorf("the guest's test said:\n%s", &lines)
	}
	if _, err := os.Stat("written-by-guest"); err == nil {
		t.Error("the guest has changed the machine's files")
	}
}

func TestPattern(t *testing.T) {
	for test, want := range map[string]string{"TestA": "^TestA$", "TestA/b": "^TestA$/^b$"} {
		if got := pattern(test); !strings.HasPrefix(got, want) {
			t.Errorf("pattern(%q) = %q, want %q at the beginning", test, got, want)
		}
	}
}
