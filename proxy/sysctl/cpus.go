package sysctl

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// CPUs returns the number of the machine's CPUs that are online, of which a
// container may have fewer.
func CPUs() int {
	if b, err := os.ReadFile("/sys/devices/system/cpu/online"); err == nil {
		if n, err := countCPUs(strings.TrimSpace(string(b))); err == nil {
			return n
		}
	}
	return runtime.NumCPU()
}

// maxCPUs is more than any kernel has.
const maxCPUs = 1 << 16

// countCPUs counts a list such as "0-3,8,10-11".
func countCPUs(list string) (int, error) {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || last < first {
			return 0, fmt.Errorf("sysctl: expected a list of CPUs such as 0-3, found %q", list)
		}
		n += int(last-first) + 1
		if n > maxCPUs {
			return 0, fmt.Errorf("sysctl: more than %d CPUs in %q", maxCPUs, list)
		}
	}
	return n, nil
}
