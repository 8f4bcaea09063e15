package dns

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

// Life is the longest life in the cache of answers for the names of a zone, where
// that is shorter than the cache's.
type Life struct {
	Zone                 string
	Answer, Negative     time.Duration // 0: not cached
	NoAnswer, NoNegative bool          // no limit but the cache's
}

// ParseLife reads "ZONE=TTL" or "ZONE=TTL/NEGATIVETTL", such as
// "corp.example=30s/5s". Either may be empty, which is no limit.
func ParseLife(text string) (Life, error) {
	zone, lives, ok := strings.Cut(text, "=")
	answer, negative, both := strings.Cut(lives, "/")
	l := Life{Zone: zone, NoAnswer: answer == "", NoNegative: !both || negative == ""}
	if _, err := wire.ParseName(zone); !ok || err != nil || zone == "" || l.NoAnswer && l.NoNegative {
		return l, fmt.Errorf("expected ZONE=TTL or ZONE=TTL/NEGATIVETTL, found %q", text)
	}
	for _, d := range []struct {
		text string
		to   *time.Duration
	}{{answer, &l.Answer}, {negative, &l.Negative}} {
		if d.text == "" {
			continue
		}
		var err error
		if *d.to, err = time.ParseDuration(d.text); err != nil || *d.to < 0 || *d.to%time.Second != 0 {
			return l, fmt.Errorf("expected whole seconds such as 30s, found %q in %q", d.text, text)
		}
	}
	return l, nil
}

// life is a Life with its zone in wire form and lower case.
type life struct {
	Life
	zone []byte
}

func sortLives(list []Life) ([]life, error) {
	var lives []life
	for _, l := range list {
		name, err := wire.ParseName(l.Zone)
		if err != nil {
			return nil, fmt.Errorf("dns: life in the cache: %w", err)
		}
		lives = append(lives, life{l, wire.AppendLower(nil, name)})
	}
	slices.SortStableFunc(lives, func(a, b life) int { return len(b.zone) - len(a.zone) })
	return lives, nil
}

// shorten makes an answer live no longer than those of its zone may.
func (r *resolver) shorten(name []byte, resp *wire.Response) {
	for _, l := range r.lives {
		if !wire.InZone(name, l.zone) {
			continue
		}
		most, none := l.Answer, l.NoAnswer
		if resp.Negative {
			most, none = l.Negative, l.NoNegative
		}
		if !none {
			resp.Lifetime = min(resp.Lifetime, uint32(most/time.Second))
			resp.Keep = resp.Keep && resp.Lifetime > 0
		}
		return
	}
}
