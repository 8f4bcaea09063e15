// Package guard holds tests of the code base itself: what all of it promises,
// and no compiler checks.
package guard

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// maxLines is where a file holds more than one idea.
const maxLines = 500

// files returns the paths of all files of the project, without what is ignored
// or built.
func files(t *testing.T) []string {
	t.Helper()
	var paths []string
	err := fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (p == ".git" || p == "bin" || p == ".cache"):
			return fs.SkipDir
		case d.Type().IsRegular():
			paths = append(paths, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < 100 {
		t.Fatalf("found only %d files", len(paths))
	}
	return paths
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// parsed are the Go files, by path. Nobody changes them.
var parsed map[string]*ast.File

// sources parses the Go files, once.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	if parsed != nil {
		return parsed
	}
	out := map[string]*ast.File{}
	for _, file := range files(t) {
		if path.Ext(file) != ".go" {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, read(t, file), parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		out[file] = f
	}
	parsed = out
	return out
}

// TestOnePackageComment wants exactly one comment of each package, and that it
// begins as godoc expects.
func TestOnePackageComment(t *testing.T) {
	comments := map[string][]string{} // by directory
	tests := map[string]bool{}        // directories of nothing but tests
	for file, f := range sources(t) {
		dir := path.Dir(file)
		test := strings.HasSuffix(file, "_test.go")
		if only, seen := tests[dir]; !seen || only {
			tests[dir] = test
		}
		if f.Doc == nil {
			if _, seen := comments[dir]; !seen {
				comments[dir] = nil
			}
			continue
		}
		comments[dir] = append(comments[dir], file)
		want := "Package " + f.Name.Name + " "
		if f.Name.Name == "main" {
			want = "Command " + path.Base(dir) + " "
		}
		if !strings.HasPrefix(f.Doc.Text(), want) {
			t.Errorf("%s: the package comment does not begin with %q", file, want)
		}
		if test && !tests[dir] {
			t.Errorf("%s: the package comment is in a test", file)
		}
	}
	for dir, in := range comments {
		if len(in) != 1 {
			t.Errorf("%s: %d package comments %q, want 1", dir, len(in), in)
		}
	}
}

var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// TestFilesAreSmall bounds the files that people write.
func TestFilesAreSmall(t *testing.T) {
	for _, file := range files(t) {
		if path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			continue
		}
		b := read(t, file)
		if n := bytes.Count(b, []byte("\n")); n > maxLines && !generated.Match(b) {
			t.Errorf("%s: %d lines, more than %d: it holds more than one idea", file, n, maxLines)
		}
	}
}

// link finds the targets of Markdown's links that are not addresses.
var link = regexp.MustCompile(`\]\(([^)\s:]*)\)`)

// TestLinks wants the file, and the heading, behind every link of a page.
func TestLinks(t *testing.T) {
	found := 0
	for _, page := range files(t) {
		if path.Ext(page) != ".md" {
			continue
		}
		for _, m := range link.FindAllSubmatch(read(t, page), -1) {
			found++
			file, heading, _ := strings.Cut(string(m[1]), "#")
			target := page
			if file != "" {
				target = path.Join(path.Dir(page), file)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: (%s): there is no %s", page, m[1], target)
			} else if heading != "" && !headings(read(t, target))[heading] {
				t.Errorf("%s: (%s): %s has no such heading", page, m[1], target)
			}
		}
	}
	if found == 0 {
		t.Error("found no links: does this test still read the pages?")
	}
}

// headings returns the anchors of a page's headings, as forges make them.
func headings(page []byte) map[string]bool {
	out := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ +(.*)$`).FindAllSubmatch(page, -1) {
		kept := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r > 127 && r != '…':
				return r
			}
			return -1
		}, strings.ToLower(string(m[1])))
		out[kept] = true
	}
	return out
}

// elsewhere finds paths of a machine that a file was written on.
var elsewhere = regexp.MustCompile(`/(?:root|work|home/[a-z]+)/[a-zA-Z0-9._]`)

// TestNoMachineOfOurs wants no path that only somebody's own machine has.
func TestNoMachineOfOurs(t *testing.T) {
	for _, file := range files(t) {
		b := read(t, file)
		for _, at := range elsewhere.FindAllIndex(b, -1) {
			if at[0] == 0 || bytes.ContainsAny(b[at[0]-1:at[0]], " \t\n\"'`=(:") {
				t.Errorf("%s:%d: %q is a path of one machine", file, 1+bytes.Count(b[:at[0]], []byte("\n")), b[at[0]:at[1]])
			}
		}
	}
}

// TestScripts wants scripts that can be run and that a shell can read.
func TestScripts(t *testing.T) {
	found := 0
	for _, file := range files(t) {
		if !bytes.HasPrefix(read(t, file), []byte("#!/bin/sh\n")) {
			continue
		}
		found++
		info, err := os.Stat(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&0o111 == 0 {
			t.Errorf("%s: is not executable", file)
		}
		if out, err := exec.Command("/bin/sh", "-n", filepath.Join(root, file)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", file, err, out)
		}
	}
	if found < 3 {
		t.Errorf("found only %d scripts", found)
	}
}
