package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A user namespace that an ordinary user makes has one user, its root. With the
// programs of Debian's package uidmap it gets as many as /etc/subuid grants, so
// that its processes can be told apart by their users.

// errNoUsers says that no more users could be had, and one has to do.
var errNoUsers = errors.New("no subordinate users")

// idRange is a line of /etc/subuid: the first of the host's numbers, and how
// many there are.
type idRange struct{ first, count uint32 }

// userMap is what the users and groups of a namespace are on the host.
type userMap struct{ uids, gids idRange }

// subordinates finds what this user has been granted.
func subordinates() (*userMap, bool) {
	me, err := user.Current()
	if err != nil {
		return nil, false
	}
	uids, ok1 := grant("/etc/subuid", me.Username, me.Uid)
	gids, ok2 := grant("/etc/subgid", me.Username, me.Uid)
	_, err1 := exec.LookPath("newuidmap")
	_, err2 := exec.LookPath("newgidmap")
	return &userMap{uids, gids}, ok1 && ok2 && err1 == nil && err2 == nil
}

func grant(path, name, uid string) (idRange, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return idRange{}, false
	}
	return parseGrant(bytes.NewReader(b), name, uid)
}

// parseGrant finds a user's first line in a file of lines NAME-OR-UID:FIRST:COUNT
// (subuid(5)).
func parseGrant(r io.Reader, name, uid string) (idRange, bool) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || fields[0] != name && fields[0] != uid {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 {
			return idRange{uint32(first), uint32(count)}, true
		}
	}
	return idRange{}, false
}

// write maps the users and groups of a process' namespace: 0 is this user, and
// those from 1 on are the subordinate ones.
func (m *userMap) write(pid int) error {
	for _, c := range []struct {
		program string
		self    int
		more    idRange
	}{{"newuidmap", os.Getuid(), m.uids}, {"newgidmap", os.Getgid(), m.gids}} {
		args := []any{pid, 0, c.self, 1, 1, c.more.first, c.more.count}
		var text []string
		for _, a := range args {
			text = append(text, fmt.Sprint(a))
		}
		if out, err := exec.Command(c.program, text...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s: %w", c.program, err, bytes.TrimSpace(out), errNoUsers)
		}
	}
	return nil
}

// awaitUsers is the first stage of an init process with several users: it waits
// until they are mapped, and then begins again as root, for the kernel gives a
// process its rights when it is executed. It returns only if that failed.
func awaitUsers() {
	var b [1]byte
	if n, err := os.NewFile(mappedFD, "mapped").Read(b[:]); n != 1 {
		fmt.Fprintln(os.Stderr, "lab: the users of the namespace were not mapped:", err)
		return
	}
	err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), stageVariable+"=init"))
	fmt.Fprintln(os.Stderr, "lab:", err)
}

// HasUser says whether processes can run as that user here. In the namespace of
// an ordinary user there may be none but root; Debian's package uidmap, and a
// line for the user in /etc/subuid and /etc/subgid, give it others.
func HasUser(uid uint32) bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		var inside, outside, count uint64
		if n, _ := fmt.Sscan(line, &inside, &outside, &count); n == 3 && uint64(uid) >= inside && uint64(uid)-inside < count {
			return true
		}
	}
	return false
}

// dieWithParent asks for SIGKILL when the parent ends. It is asked again after
// an exec that gave rights, which takes it back (prctl(2), PR_SET_PDEATHSIG).
func dieWithParent() error {
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0)
}
