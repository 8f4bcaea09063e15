package corefile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/internal/config"
)

// cache takes over limits of lives: of all names, or of those of one zone.
func (im *importer) cache(s *server, d directive) {
	if s.cluster && !isRoot(s.zones) {
		im.needed(d, "the cluster's names are answered from its objects, with dns.ttl")
		return
	}
	answer, negative := time.Hour, 30*time.Minute // CoreDNS' defaults
	args := d.args
	if len(args) > 0 {
		if ttl, ok := seconds(args[0]); ok {
			answer, negative, args = ttl, ttl, args[1:]
		}
	}
	if len(args) > 0 {
		im.lost(d, "it is for all zones of its block")
	}
	for _, o := range d.body {
		switch o.name {
		case "success", "denial":
			to := &answer
			if o.name == "denial" {
				to = &negative
			}
			if len(o.args) > 1 {
				ttl, ok := seconds(o.args[1])
				if ok {
					*to = ttl
				} else {
					im.lost(o, "%s: expected seconds", o.args[1])
				}
			}
			if len(o.args) > 2 {
				im.lost(o, "%s: TTLs are never raised", strings.Join(o.args[2:], " "))
			}
			im.needed(o, "what the cache holds is bounded by its memory, dns.cache.mib")
		case "prefetch":
			im.prefetch(s, o)
		case "serve_stale":
			im.serveStale(s, o)
		case "servfail":
			im.servfail(s, o)
		case "disable":
			if len(o.args) > 1 && !slices.ContainsFunc(o.args[1:], func(z string) bool { return strings.ToLower(strings.TrimSuffix(z, ".")) != im.zone }) {
				im.needed(o, "the cluster's names are answered from its objects")
				continue
			}
			im.disable(o, &answer, &negative)
		default:
			im.lost(o, "there is nothing like it in the cache")
		}
	}
	if def := config.Default().DNS.Cache; isRoot(s.zones) {
		has := func(name string) bool {
			return slices.ContainsFunc(d.body, func(o directive) bool { return o.name == name })
		}
		if !has("serve_stale") {
			im.needed(d, "no expired answers without serve_stale: dns.cache.stale is 0s, and %v without this configuration", def.Stale.Duration)
		}
		if !has("prefetch") {
			im.needed(d, "nothing is asked for again early without prefetch: dns.cache.prefetch is 0, and %d without this configuration", def.Prefetch)
		}
	}
	for _, z := range s.zones {
		im.lives = append(im.lives, life{z, answer, negative})
	}
}

// disable takes over success|denial [ZONES...]: answers that are not kept, of all names
// of the block or of some zones.
func (im *importer) disable(o directive, answer, negative *time.Duration) {
	kind := first(o.args)
	if kind != "success" && kind != "denial" {
		im.lost(o, "expected success or denial")
		return
	}
	if len(o.args) == 1 {
		if kind == "success" {
			*answer = 0
		} else {
			*negative = 0
		}
		return
	}
	im.lost(o, "dns.cache.zones keeps nothing of a zone with ZONE=0s, only what there is with ZONE=/0s")
}

// prefetch takes over AMOUNT [DURATION [PERCENTAGE]].
func (im *importer) prefetch(s *server, o directive) {
	n, err := strconv.ParseUint(first(o.args), 10, 16)
	switch {
	case err != nil:
		im.lost(o, "expected a number of uses")
	case !isRoot(s.zones):
		im.lost(o, "dns.cache.prefetch is for all zones")
	default:
		im.c.DNS.Cache.Prefetch = uint32(n)
		if len(o.args) > 1 {
			im.lost(o, "%s: uses are counted over an answer's whole life, and it is asked for again in the last tenth of it", strings.Join(o.args[1:], " "))
		}
	}
}

// serveStale takes over [DURATION [immediate|verify [TIMEOUT] [TTL [RECHECK]]]].
// immediate, which is CoreDNS' default, asks the servers only after it has answered.
func (im *importer) serveStale(s *server, o directive) {
	stale, ok := time.Hour, true
	if len(o.args) > 0 {
		stale, ok = seconds(o.args[0])
	}
	switch {
	case !ok:
		im.lost(o, "expected a duration")
		return
	case !isRoot(s.zones):
		im.lost(o, "dns.cache.stale is for all zones")
		return
	}
	im.c.DNS.Cache.Stale = metav1.Duration{Duration: stale}
	if len(o.args) < 2 || !strings.EqualFold(o.args[1], "verify") {
		im.lost(o, "immediate: an expired answer is given when no server has answered for 1.8s, or at once if none did lately")
	}
	if len(o.args) > 2 {
		im.lost(o, "%s: a server has 1.8s to answer, an expired answer a TTL of 30s, and no server is asked again for 30s", strings.Join(o.args[2:], " "))
	}
}

// servfail takes over how long failures are kept.
func (im *importer) servfail(s *server, o directive) {
	const most = 5 * time.Second
	ttl, ok := seconds(first(o.args))
	switch {
	case !ok:
		im.lost(o, "expected a duration")
	case !isRoot(s.zones):
		im.lost(o, "dns.cache.failureTTL is for all zones")
	case ttl < time.Second:
		im.lost(o, "failures are kept for 1s at least")
		im.c.DNS.Cache.FailureTTL = metav1.Duration{Duration: time.Second}
	default:
		if ttl > most {
			im.lost(o, "failures are kept for %v at most", most)
		}
		im.c.DNS.Cache.FailureTTL = metav1.Duration{Duration: min(ttl, most)}
	}
}

// uncached takes over that a block which forwards has no cache.
func (im *importer) uncached(s *server) {
	if len(s.find("cache")) > 0 || len(s.find("forward")) == 0 || s.cluster && !isRoot(s.zones) {
		return
	}
	for _, z := range s.zones {
		im.lives = append(im.lives, life{zone: z})
	}
}

// life is how long answers for the names of a zone are kept.
type life struct {
	zone             string
	answer, negative time.Duration
}

// limitLives takes over all lives: that of all names as the cache's, unless others
// are longer, which the cache's is a bound of.
func (im *importer) limitLives() {
	c := &im.c.DNS.Cache
	var most life
	for _, l := range im.lives {
		most.answer, most.negative = max(most.answer, l.answer), max(most.negative, l.negative)
	}
	for _, l := range im.lives {
		if l.zone == "." && l.answer == most.answer && l.negative == most.negative && most.answer > 0 && most.negative > 0 {
			continue
		}
		if l.answer == 0 && slices.ContainsFunc(im.lives, func(o life) bool { return o.zone == l.zone && o.answer > 0 }) {
			continue // another block for the zone has a cache
		}
		// Where a block has two caches the first counts. No name that anybody has
		// holds the character that ends it here.
		name, _, _ := strings.Cut(l.zone, "=")
		if !slices.ContainsFunc(c.Zones, func(o string) bool { return strings.HasPrefix(o, name+"=") }) {
			c.Zones = append(c.Zones, fmt.Sprintf("%s=%v/%v", l.zone, l.answer, l.negative))
		}
	}
	if most.answer > 0 {
		c.MaxTTL = metav1.Duration{Duration: most.answer}
	}
	if most.negative > 0 {
		c.MaxNegativeTTL = metav1.Duration{Duration: most.negative}
	}
}
