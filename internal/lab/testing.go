package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"
)

// TB is the part of testing.TB that the lab uses, so that a program with a lab in
// it does not carry the testing package.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Main runs a package's tests inside namespaces of their own:
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
//
// Where the machine forbids that, the tests run as they are, and [ForTest] skips
// those that need a lab, with the reason; with CI set, everything fails.
func Main(m interface{ Run() int }) int {
	if slices.Contains(os.Args, "-test.fuzzworker") {
		return m.Run() // the fuzzer that started it is there already, and talks to it
	}
	if err := Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if os.Getenv("CI") != "" {
			return 1
		}
	}
	return m.Run()
}

// ForTest makes a lab that is closed when the test ends. It skips the test where
// the machine allows no lab, and fails it with CI set.
func ForTest(t TB, options Options) *Lab {
	t.Helper()
	l, err := New(options)
	var unsupported *UnsupportedError
	switch {
	case errors.As(err, &unsupported) && os.Getenv("CI") == "":
		t.Skipf("no lab here: %v", err)
	case err != nil:
		t.Fatalf("no lab here: %v", err)
	}
	t.Cleanup(l.Close)
	return l
}

// MustNode is Node for tests: it panics on an error.
func (l *Lab) MustNode(name string) *Node { return must(l.Node(name)) }

// MustClient is Client for tests: it panics on an error.
func (l *Lab) MustClient(name string) *Client { return must(l.Client(name)) }

// MustPod is Pod for tests: it panics on an error.
func (n *Node) MustPod(name string) *Pod { return must(n.Pod(name)) }

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
