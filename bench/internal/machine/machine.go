// Package machine says what figures were measured on.
package machine

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// Describe returns the kernel's release and the number of processors.
func Describe() (string, error) {
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return "", err
	}
	var release []byte
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	cores, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Linux %s, %d cores", release, strings.Count(string(cores), "processor\t")), nil
}
