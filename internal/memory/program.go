package memory

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// releaseProgram takes the pages of the program's own code and constants off the
// process. Nearly all of them were needed by its start alone, in which every
// package makes its tables, and the kernel maps sixteen for each that is touched.
// They stay in the page cache, from where those that are needed come back without
// being read again, and which gives up the others when memory is short.
func releaseProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	maps, err := unchanged(f, exe)
	if err != nil {
		return err
	}
	for _, m := range maps {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise: %w", errno)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// unchanged reads, in the form of /proc/self/smaps (proc_pid_smaps(5)), which
// mappings of a file are as the file is, and stay so: nobody may write to them,
// and no relocation and no debugger has.
func unchanged(smaps io.Reader, file string) ([]mapping, error) {
	var out []mapping
	var at mapping
	ours := false
	for lines := bufio.NewScanner(smaps); ; {
		if !lines.Scan() {
			return out, lines.Err()
		}
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 3 && fields[0] == "Anonymous:":
			if ours && fields[1] == "0" {
				out = append(out, at)
			}
		case len(fields) >= 5 && !strings.HasSuffix(fields[0], ":"):
			// 00400000-022a4000 r-xp 00000000 fe:00 1234 /usr/bin/sluice
			from, to, _ := strings.Cut(fields[0], "-")
			start, err := strconv.ParseUint(from, 16, 64)
			if err != nil {
				return nil, fmt.Errorf("smaps: %w", err)
			}
			end, err := strconv.ParseUint(to, 16, 64)
			if err != nil {
				return nil, fmt.Errorf("smaps: %w", err)
			}
			at = mapping{uintptr(start), uintptr(end)}
			ours = len(fields) > 5 && strings.Join(fields[5:], " ") == file && !strings.Contains(fields[1], "w")
		}
	}
}
