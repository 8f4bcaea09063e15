package lab_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sluicenet/sluice/internal/lab"
)

// TestTempDir shows a program out of a closed directory to another user.
func TestTempDir(t *testing.T) {
	needsLab(t)
	closed := filepath.Join(t.TempDir(), "closed")
	program := filepath.Join(closed, "program")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho shown to $(id -u)\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := lab.TempDir(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	shown := filepath.Join(dir, "program")
	back, err := lab.Bind(program, shown)
	if err != nil {
		t.Fatal(err)
	}
	// The namespaces are made afterwards, and see it.
	cmd := lab.ForTest(t, lab.Options{}).MustNode("node1").Command(t.Context(), shown)
	want := "shown to 0\n"
	if lab.HasUser(1337) {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 1337, Gid: 1337}
		want = "shown to 1337\n"
	}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
		t.Errorf("%q, %v", out, err)
	}
	if err := back(); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
	other, err := lab.TempDir()
	if err != nil || filepath.Dir(other) != filepath.Dir(dir) {
		t.Errorf("a second one is %s: %v", other, err)
	}
	_ = os.RemoveAll(other)
}
