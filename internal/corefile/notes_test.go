package corefile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestWhatIsSaid proves of single lines of a block for all names that what they ask
// for is in the configuration or in a note, and in the right one.
func TestWhatIsSaid(t *testing.T) {
	for _, c := range []struct {
		line string
		lost string // in a note about what is not done; empty: there is none
		said string // in a note about what is done anyway
	}{
		{"any", "with the SOA", ""},
		{"bufsize", "", "at most 1232 octets"},
		{"bufsize 1232", "", "at most 1232 octets"},
		{"bufsize 4096", "at most 1232 octets", ""},
		{"bufsize 512", "at most 1232 octets", ""},
		{"health", "http://:8080/health is not answered any more: have probes ask http://127.0.0.1:10249/livez", ""},
		{"health 169.254.20.10:8080\nprometheus :9253", "http://169.254.20.10:8080/health is not answered any more: have probes ask http://:9253/livez", ""},
		{"health {\nlameduck 5s\n}", "ends as soon as", ""},
		{"ready 10.0.0.1:81", "http://10.0.0.1:81/ready is not answered any more: have probes ask http://127.0.0.1:10249/healthz", ""},
		{"ready {\nmonitor continuously\n}", "http://:8181/ready", "asked anew"},
		{"ready {\nmonitor until-ready\n}", "asked anew", ""},
		{"reload 2s 1s", "but not the configuration", ""},
		{"errors {\nconsolidate 5m \".*\"\n}", "", "put together"},
		{"errors {\nstacktrace\n}", "not logged that way", ""},
		{"loadbalance", "", "random one"},
		{"loadbalance round_robin", "", "random one"},
		{"loadbalance weighted w.file {\nreload 1s\n}", "reload 1s: addresses begin", ""},
		{"multisocket 8", "a socket a core", ""},
		{"shed", "", "newest is done first"},
		{"nsid me", "do not name the server", ""},
		{"prometheus", "not at localhost:9153 but at 127.0.0.1:10249", ""},
		{"prometheus :9153 {\ntls c.pem k.pem\n}", "without TLS", ""},
		{"autopath /etc/r.conf", "/etc/r.conf: a search path", ""},
		{"autopath a.example @kubernetes", "a.example: search paths", ""},
		{"cache 30 {\nprefetch 5 2m 20%\n}", "2m 20%: uses are counted", "without serve_stale"},
		{"cache 30 {\nprefetch many\n}", "expected a number", ""},
		{"cache 30 {\nserve_stale\n}", "immediate: an expired", "without prefetch"},
		{"cache 30 {\nserve_stale 1h immediate 0s 5s\n}", "0s 5s: a server has", ""},
		{"cache 30 {\nserve_stale 1h verify 2s\n}", "2s: a server has", ""},
		{"cache 30 {\nserve_stale soon\n}", "expected a duration", ""},
		{"cache 30 {\nservfail 10s\n}", "5s at most", ""},
		{"cache 30 {\nservfail 0s\n}", "1s at least", ""},
		{"cache {\nsuccess 100 30 10\n}", "10: TTLs are never raised", "bounded by its memory"},
		{"cache {\ndenial 100 long\n}", "long: expected seconds", ""},
		{"cache 30 {\nkeepttl\n}", "keepttl: there is nothing", ""},
		{"cache 30 {\ndisable denial other.example\n}", "ZONE=0s", ""},
		{"cache 30 {\ndisable failure\n}", "expected success or denial", ""},
		{"cache 30 {\ndisable success cluster.local\n}", "", "answered from its objects"},
		{"cache 30 a.example", "all zones of its block", ""},
		{"rewrite continue name a.example b.example", "continue: a name is rewritten once", ""},
		{"rewrite stop name a.example b.example", "", ""},
		{"rewrite name a.example b.example\nrewrite name exact A.example. c.example", "an earlier line rewrites A.example", ""},
		{"forward . /etc/resolv.conf {\nforce_tcp\n}", "over UDP first", ""},
		{"forward . 10.0.0.1 {\ntls_servername a.example\n}", "", "no server is asked over TLS"},
		{"forward . 10.0.0.1 {\nnext NXDOMAIN\n}", "next NXDOMAIN: there is nothing", ""},
		{"hosts /etc/hosts {\nttl 0\nfallthrough\n}", "expected seconds", ""},
		{"kubernetes cluster.local {\nkubeconfig /k other\n}", "current context", ""},
		{"kubernetes cluster.local {\nignore everything\n}", "expected empty_service", ""},
		{"transfer {\nto *\n}", "only the cluster's zones", ""},
		{"kubernetes cluster.local\ntransfer example.com {\nto *\n}", "only the cluster's zones", ""},
		{"kubernetes cluster.local\ntransfer {\nto * 10.0.0.1:5300 all\nfrom 10.0.0.2\n}", "10.0.0.1:5300 may ask for transfers, but is not notified", ""},
		{"kubernetes cluster.local\ntransfer {\nto all\n}", "all is neither an address nor *", ""},
		{"kubernetes cluster.local {\nnamespaces a B\n}", "B is no namespace", ""},
		{"kubernetes cluster.local {\nlabels in (a\n}", "expected a label selector", ""},
		{"kubernetes cluster.local {\nstartup_timeout 1m\n}", "waits 5s", ""},
		{"kubernetes cluster.local {\nstartup_timeout 5s\n}", "", "waits 5s"},
		{"dnstap tcp://127.0.0.1:6000 full 2 4\n", "2: what waits", ""},
		{"dnstap /run/tap full {\nidentity me\nskipverify\n}", "skipverify: there is nothing", ""},
	} {
		cfg, notes, err := Import([]byte(". {\nbind 10.0.0.53\n"+c.line+"\n}"), "cluster.local")
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if err := cfg.Validate(); err != nil {
			t.Errorf("%q: %v", c.line, err)
		}
		var lost, said []string
		for _, n := range notes {
			if n.Lost {
				lost = append(lost, n.String())
			} else {
				said = append(said, n.String())
			}
		}
		for _, part := range []struct {
			name, want string
			got        []string
		}{{"lost", c.lost, lost}, {"not needed", c.said, said}} {
			all := strings.Join(part.got, "\n")
			if !strings.Contains(all, part.want) {
				t.Errorf("%q: %s is\n%s\nwant %q in it", c.line, part.name, all, part.want)
			}
			if part.want == "" && part.name == "lost" && all != "" {
				t.Errorf("%q: lost is\n%s\nwant nothing", c.line, all)
			}
		}
	}
}

// TestOnlyWhatIsAskedFor proves that a Corefile has its cache and not our defaults.
func TestOnlyWhatIsAskedFor(t *testing.T) {
	for _, c := range []struct {
		lines    string
		stale    time.Duration
		prefetch uint32
		policies string
		zones    string
	}{
		{"cache 30\nforward . 10.0.0.1", 0, 0, "", ""},
		{"forward . 10.0.0.1", 0, 0, "", ".=0s/0s"},
		{"cache 30 {\nserve_stale 2h verify\nprefetch 7\n}\nforward . 10.0.0.1 10.0.0.2", 2 * time.Hour, 7, "random", ""},
		{"cache 30 {\nserve_stale\n}\nforward . /etc/resolv.conf {\npolicy sequential\n}", time.Hour, 0, "sequential", ""},
		{"cache 30\nforward . 10.0.0.1\n}\ntls://. {\nforward . 10.0.0.1", 0, 0, "", ""},
		{"cache 30\nforward . 10.0.0.1\n}\na.example {\nforward . 10.0.0.1", 0, 0, "", "a.example=0s/0s"},
	} {
		cfg, _, err := Import([]byte(". {\n"+c.lines+"\n}"), "cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		d := cfg.DNS
		if d.Cache.Stale.Duration != c.stale || d.Cache.Prefetch != c.prefetch || strings.Join(d.Policies, " ") != c.policies || strings.Join(d.Cache.Zones, " ") != c.zones {
			t.Errorf("%q: stale %v, prefetch %d, policies %q, zones %q", c.lines, d.Cache.Stale.Duration, d.Cache.Prefetch, d.Policies, d.Cache.Zones)
		}
	}
}

// TestBlocksOfOneZone proves that where blocks have the same zone that of port 53
// holds, and that what others say otherwise is told.
func TestBlocksOfOneZone(t *testing.T) {
	const main = ".:53 {\nbind 10.0.0.53\ncache 30\nforward . 10.0.0.1\n}\n"
	for what, c := range map[string]struct {
		text, upstreams, listen string
		lost                    []string
	}{
		"another port":     {main + ".:5353 {\nbind 10.0.0.53\ncache 30\nforward . 10.0.0.2\n}", "10.0.0.1", "10.0.0.53:53 10.0.0.53:5353", []string{"line 9: forward . 10.0.0.2: . is answered alike on every address and port, as the block of line 1 says"}},
		"the port before":  {".:5353 {\nbind 10.0.0.53\ncache 30\nforward . 10.0.0.2\n}\n" + main, "10.0.0.1", "10.0.0.53:5353 10.0.0.53:53", []string{"line 4: forward . 10.0.0.2: . is answered alike on every address and port, as the block of line 6 says"}},
		"the same twice":   {main + ".:5353 {\nbind 10.0.0.53\ncache 30\nforward . 10.0.0.1\n}", "10.0.0.1", "10.0.0.53:53 10.0.0.53:5353", nil},
		"with less":        {main + ".:5353 {\nbind 10.0.0.53\nforward . 10.0.0.1\n}", "10.0.0.1", "10.0.0.53:53 10.0.0.53:5353", []string{"line 6: .:5353: . is answered alike on every address and port, so with cache, as the block of line 1 says"}},
		"another address":  {main + ". {\nbind 10.0.0.54\nforward . 10.0.0.2\ncache 30\n}", "10.0.0.1", "10.0.0.53:53 10.0.0.54:53", []string{"line 8: forward . 10.0.0.2: . is answered alike on every address and port, as the block of line 1 says"}},
		"a variable":       {". {\nbind {$NODE_IP} 169.254.20.10\ncache 30\nforward . 10.0.0.1\n}", "10.0.0.1", "169.254.20.10:53", []string{"line 2: bind {$NODE_IP} 169.254.20.10: {$NODE_IP}: a placeholder: name the address in dns.listen"}},
		"another zone too": {main + "a.example:5353 {\nbind 10.0.0.53\ncache 30\nforward . 10.0.0.2\n}", "10.0.0.1 a.example=10.0.0.2", "10.0.0.53:53 10.0.0.53:5353", nil},
	} {
		cfg, notes, err := Import([]byte(c.text), "cluster.local")
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		var lost []string
		for _, n := range notes {
			if n.Lost {
				lost = append(lost, n.String())
			}
		}
		listen := strings.Trim(fmt.Sprint(cfg.DNS.Listen), "[]")
		if !slices.Equal(lost, c.lost) || strings.Join(cfg.DNS.Upstreams, " ") != c.upstreams || listen != c.listen {
			t.Errorf("%s: upstreams %q, listen %q, lost\n%s", what, cfg.DNS.Upstreams, listen, strings.Join(lost, "\n"))
		}
	}
}
