package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// table writes a line for each thing that was expected and counted, at once when
// it is known.
type table struct {
	out      io.Writer
	terminal bool // can overwrite a line and show colours
	lines    int
	failed   int
	missing  string // what could not be shown, or empty
}

func newTable(out io.Writer) *table {
	t := &table{out: out}
	if f, ok := out.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		t.terminal = err == nil
	}
	return t
}

// section begins a part with a line that says what is done.
func (t *table) section(format string, args ...any) {
	_, _ = fmt.Fprintf(t.out, "\n%s\n", t.style("1", fmt.Sprintf(format, args...)))
}

// note says what is going on.
func (t *table) note(format string, args ...any) {
	_, _ = fmt.Fprintf(t.out, "  %s\n", t.style("2", fmt.Sprintf(format, args...)))
}

// check is one line: what, what is expected, and a function that counts. Its
// error fails the line; the text is shown either way.
type check struct {
	what, expected string
	count          func(ctx context.Context) (counted string, err error)
}

// run counts and writes the line. Only the end of the context is an error.
func (t *table) run(ctx context.Context, c check) error {
	if t.terminal {
		_, _ = fmt.Fprintf(t.out, "  ...   %s", c.what)
	}
	counted, err := c.count(ctx)
	if t.terminal {
		_, _ = fmt.Fprint(t.out, "\r\x1b[K")
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t.line(c, counted, err)
	return nil
}

func (t *table) line(c check, counted string, err error) {
	verdict := t.style("32", "ok  ")
	t.lines++
	if err != nil {
		verdict = t.style("31;1", "FAIL")
		t.failed++
		counted = strings.TrimPrefix(counted+"; "+err.Error(), "; ")
	}
	_, _ = fmt.Fprintf(t.out, "  %s  %-40s  %-36s  %s\n", verdict, c.what, c.expected, counted)
}

// summary ends the table.
func (t *table) summary(took time.Duration) {
	verdict := fmt.Sprintf("%d of %d lines as expected, in %.0f s", t.lines-t.failed, t.lines, took.Seconds())
	if t.missing != "" {
		verdict += "; not shown: " + t.missing
	}
	if t.failed > 0 {
		verdict = t.style("31;1", verdict)
	}
	_, _ = fmt.Fprintf(t.out, "\n%s\n", verdict)
}

func (t *table) style(code, text string) string {
	if !t.terminal {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
