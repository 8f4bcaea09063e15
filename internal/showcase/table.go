package showcase

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Table writes a line for each thing that was expected and counted, at once when
// it is known.
type Table struct {
	out      io.Writer
	terminal bool // can overwrite a line and show colours
	lines    int
	failed   int
	skipped  int
}

// NewTable returns a table that is written to out.
func NewTable(out io.Writer) *Table {
	t := &Table{out: out}
	if f, ok := out.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		t.terminal = err == nil
	}
	return t
}

// Section begins a part with a line that says what is done.
func (t *Table) Section(format string, args ...any) {
	_, _ = fmt.Fprintf(t.out, "\n%s\n", t.style("1", fmt.Sprintf(format, args...)))
}

// Note says what is going on.
func (t *Table) Note(format string, args ...any) {
	_, _ = fmt.Fprintf(t.out, "  %s\n", t.style("2", fmt.Sprintf(format, args...)))
}

// Check is one line: what, what is expected, and a function that counts. Its
// error fails the line; the text is shown either way.
type Check struct {
	What, Expected string
	Count          func(ctx context.Context) (counted string, err error)
}

// Run counts and writes the line. Only the end of the context is an error.
func (t *Table) Run(ctx context.Context, c Check) error {
	if t.terminal {
		_, _ = fmt.Fprintf(t.out, "  ...   %s", c.What)
	}
	counted, err := c.Count(ctx)
	if t.terminal {
		_, _ = fmt.Fprint(t.out, "\r\x1b[K")
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t.line(c, counted, err)
	return nil
}

func (t *Table) line(c Check, counted string, err error) {
	verdict := t.style("32", "ok  ")
	t.lines++
	if err != nil {
		verdict = t.style("31;1", "FAIL")
		t.failed++
		counted = strings.TrimPrefix(counted+"; "+err.Error(), "; ")
	}
	_, _ = fmt.Fprintf(t.out, "  %s  %-40s  %-36s  %s\n", verdict, c.What, c.Expected, counted)
}

// skip writes a line for what cannot be shown here, and why.
func (t *Table) skip(what, reason string) {
	t.skipped++
	_, _ = fmt.Fprintf(t.out, "  %s  %-40s  %s\n", t.style("33", "skip"), what, reason)
}

// Lines returns how many lines there are, and how many of them failed.
func (t *Table) Lines() (all, failed int) { return t.lines, t.failed }

// Summary ends the table.
func (t *Table) Summary(took time.Duration) {
	verdict := fmt.Sprintf("%d of %d lines as expected, in %.0f s", t.lines-t.failed, t.lines, took.Seconds())
	if t.skipped > 0 {
		verdict += fmt.Sprintf("; %d skipped", t.skipped)
	}
	if t.failed > 0 {
		verdict = t.style("31;1", verdict)
	}
	_, _ = fmt.Fprintf(t.out, "\n%s\n", verdict)
}

func (t *Table) style(code, text string) string {
	if !t.terminal {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
