package kuberules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// NoLegacyError indicates that the kernel has tables of iptables-legacy and the
// machine has no program that could read them.
type NoLegacyError struct {
	Program string
	Tables  []string
	Err     error
}

// Error says what to do about it.
func (e *NoLegacyError) Error() string {
	return fmt.Sprintf("%s: the kernel has the tables %s of iptables-legacy, and what is in them cannot be seen: %v; install iptables",
		e.Program, strings.Join(e.Tables, ", "), e.Err)
}

// Unwrap returns why the program could not run.
func (e *NoLegacyError) Unwrap() error { return e.Err }

// findLegacy finds the chains in the tables of iptables-legacy. No program runs,
// and no module is loaded, where the kernel has none of these tables.
func findLegacy(ctx context.Context) ([]Leftover, error) {
	var out []Leftover
	var errs []error
	for _, v := range []struct{ names, save, restore string }{
		{"/proc/thread-self/net/ip_tables_names", "iptables-legacy-save", "iptables-legacy-restore"},
		{"/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy-save", "ip6tables-legacy-restore"},
	} {
		names, err := os.ReadFile(v.names)
		tables := strings.Fields(string(names))
		if err != nil || len(tables) == 0 {
			continue // the modules are not loaded, or nobody uses them here
		}
		for _, table := range tables {
			saved, err := output(ctx, nil, v.save, "-t", table)
			if errors.Is(err, exec.ErrNotFound) {
				errs = append(errs, &NoLegacyError{v.save, tables, err})
				break
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			script, chains := removal(saved)
			if chains == 0 {
				continue
			}
			what := fmt.Sprintf("%d chains KUBE-* in table %s of %s", chains, table, strings.TrimSuffix(v.save, "-save"))
			out = append(out, Leftover{what, func(ctx context.Context) error {
				_, err := output(ctx, script, v.restore, "--noflush", "--wait")
				return err
			}})
		}
	}
	return out, errors.Join(errs...)
}

func output(ctx context.Context, stdin []byte, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w %s", program, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// removal makes of a table, as iptables-save prints it, what iptables-restore
// --noflush needs to remove kube-proxy's chains from it, and their number. It is
// one transaction.
func removal(saved []byte) (script []byte, chains int) {
	var table string
	var flush, rules, remove []string
	for line := range strings.Lines(string(saved)) {
		line = strings.TrimSpace(line)
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line
		case strings.HasPrefix(line, ":") && kubeProxyChain(fields[0][1:]):
			// To declare a chain that is there empties it.
			flush = append(flush, fields[0]+" - [0:0]")
			remove = append(remove, "-X "+fields[0][1:])
		case len(fields) > 2 && fields[0] == "-A" && !kubeProxyChain(fields[1]):
			if i := slices.Index(fields, "-j"); i > 0 && i+1 < len(fields) && kubeProxyChain(fields[i+1]) {
				rules = append(rules, "-D"+line[2:])
			}
		}
	}
	if len(remove) == 0 {
		return nil, 0
	}
	lines := slices.Concat([]string{table}, flush, rules, remove, []string{"COMMIT", ""})
	return []byte(strings.Join(lines, "\n")), len(remove)
}
