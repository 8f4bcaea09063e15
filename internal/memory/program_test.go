package memory

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestUnchanged(t *testing.T) {
	const smaps = `00400000-022a4000 r-xp 00000000 fe:00 1234                               /opt/the program
Rss:               21096 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
022a4000-046b2000 r--p 01ea4000 fe:00 1234                               /opt/the program
Rss:               22048 kB
Anonymous:             4 kB
VmFlags: rd mr mw me
046b2000-04778000 rw-p 042b2000 fe:00 1234                               /opt/the program
Anonymous:             0 kB
04778000-04800000 r--p 04378000 fe:00 1234                               /opt/the program
Anonymous:             0 kB
04800000-06000000 rw-p 00000000 00:00 0 
Anonymous:             0 kB
7f0000000000-7f0000022000 r--p 00000000 fe:00 99                         /usr/lib/libc.so.6
Anonymous:             0 kB
`
	got, err := unchanged(strings.NewReader(smaps), "/opt/the program")
	// Not what was relocated, what can be written, and what is another's.
	if want := []mapping{{0x400000, 0x22a4000}, {0x4778000, 0x4800000}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%x, %v, want %x", got, err, want)
	}
	if _, err := unchanged(strings.NewReader("x-y r-xp 0 0:0 1 /a\n"), "/a"); err == nil {
		t.Error("no error for what is no address")
	}
}

// fileKiB returns how much of files the process has in memory.
func fileKiB(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if kib, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.Fields(kib)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no RssFile")
	return 0
}

func TestReleaseProgram(t *testing.T) {
	before := fileKiB(t)
	if err := releaseProgram(); err != nil {
		t.Fatal(err)
	}
	// It goes on, with what it needs, which the kernel maps by and by: without a
	// release there would be more.
	if after := fileKiB(t); after >= before {
		t.Errorf("%d KiB of files before, %d after", before, after)
	}
}
