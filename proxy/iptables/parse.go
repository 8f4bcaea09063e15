package iptables

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// listing is what the kernel has of ours in one family.
type listing struct {
	chains map[ref][]string
	// foreign are rules of others' chains that lead to ours.
	foreign []member
}

// errIncompatible indicates that a table holds rules that iptables cannot print.
var errIncompatible = errors.New("iptables cannot read the table")

// errIncomplete indicates that the output of iptables-save has no end.
var errIncomplete = errors.New("the output of iptables-save is incomplete")

// incompatibleText is what iptables-nft-save says of a table that holds rules of
// nft which it cannot print.
const incompatibleText = "is incompatible, use 'nft' tool"

// parse reads what iptables-save prints of one table. Rules are in the form that
// a renderer writes.
func (l *listing) parse(t table, out []byte) error {
	if l.chains == nil {
		l.chains = map[ref][]string{}
	}
	return eachLine(out, func(chain string) {
		if strings.HasPrefix(chain, prefix) {
			if _, ok := l.chains[ref{t, chain}]; !ok {
				l.chains[ref{t, chain}] = nil
			}
		}
	}, func(chain, rule string, _ uint64) {
		switch {
		case strings.HasPrefix(chain, prefix):
			r := ref{t, chain}
			l.chains[r] = append(l.chains[r], rule)
		case leadsToUs(rule):
			l.foreign = append(l.foreign, member{ref{t, chain}, rule})
		}
	})
}

func leadsToUs(rule string) bool {
	return strings.HasPrefix(rule, "-j "+prefix) || strings.Contains(rule, " -j "+prefix) || strings.Contains(rule, " -g "+prefix)
}

// eachLine calls chain for each chain that iptables-save prints, and rule for
// each rule, with how many packets it has counted where that was asked for.
func eachLine(out []byte, chain func(name string), rule func(chain, rule string, packets uint64)) error {
	open := 0
	for raw := range bytes.Lines(out) {
		line := strings.TrimSpace(string(raw))
		switch {
		case line == "":
		case line[0] == '#':
			if strings.Contains(line, incompatibleText) {
				return fmt.Errorf("%w: %s", errIncompatible, strings.TrimPrefix(line, "# "))
			}
		case line[0] == '*':
			open++
		case line == "COMMIT":
			open--
		case line[0] == ':':
			name, _, _ := strings.Cut(line[1:], " ")
			chain(name)
		default:
			packets, rest, err := counted(line)
			if err != nil {
				return err
			}
			rest, ok := strings.CutPrefix(rest, "-A ")
			name, text, _ := strings.Cut(rest, " ")
			if !ok || name == "" {
				return fmt.Errorf("iptables-save printed %q", line)
			}
			rule(name, plain(text), packets)
		}
	}
	if open != 0 {
		return errIncomplete
	}
	return nil
}

// counted takes the counts off a line, which are of the form "[packets:bytes] ".
func counted(line string) (packets uint64, rest string, err error) {
	if line[0] != '[' {
		return 0, line, nil
	}
	counts, rest, ok := strings.Cut(line[1:], "] ")
	number, _, some := strings.Cut(counts, ":")
	if packets, err = strconv.ParseUint(number, 10, 64); err != nil || !ok || !some {
		return 0, "", fmt.Errorf("iptables-save printed %q", line)
	}
	return packets, rest, nil
}

// plain takes the quotes off a word that needs none. What needs them is not ours.
func plain(rule string) string {
	if !strings.Contains(rule, `"`) {
		return rule
	}
	words := strings.Split(rule, " ")
	for i, w := range words {
		if len(w) > 2 && w[0] == '"' && w[len(w)-1] == '"' && !strings.ContainsAny(w[1:len(w)-1], `"\\`) {
			words[i] = w[1 : len(w)-1]
		}
	}
	return strings.Join(words, " ")
}
