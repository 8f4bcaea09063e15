package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

func load(t *testing.T, text string, args ...string) (Configuration, error) {
	t.Helper()
	c := Default()
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	c.Flags(set)
	if err := set.Parse(args); err != nil {
		return c, err
	}
	given := Given(set)
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Load(path); err != nil {
		return c, err
	}
	if err := Replay(set, given); err != nil {
		return c, err
	}
	return c, c.Validate()
}

const head = "apiVersion: sluice.io/v1alpha1\nkind: Configuration\n"

func TestFileThenFlags(t *testing.T) {
	c, err := load(t, head+"nodeName: file\nzone: file.local\ndns: {listen: [\"10.0.0.1:53\"], upstreams: [10.0.0.9]}\n",
		"--node-name=flag", "--proxy-cluster-cidrs=10.244.0.0/16", "--proxy-cluster-cidrs=fd00::/64", "--dns-upstreams=10.0.0.1,10.0.0.2", "--dns-upstreams=a.example=10.0.0.3", "--proxy-masquerade-all", "-f", "dir")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.NodeName, want.Zone, want.Manifests = "flag", "file.local", "dir"
	want.DNS.Listen = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")}
	want.Proxy.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00::/64")}
	want.Proxy.MasqueradeAll = true
	want.DNS.Upstreams = []string{"10.0.0.1", "10.0.0.2", "a.example=10.0.0.3"}
	if diff := cmp.Diff(want, c, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestMistakesNameTheField(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		args []string
		want string
	}{
		"unknown field":      {head + "nodename: x\n", nil, `unknown field "nodename"`},
		"unknown deep field": {head + "dns: {port: 1}\n", nil, `unknown field "dns.port"`},
		"api version":        {"apiVersion: v2\nkind: Configuration\n", nil, `apiVersion: expected "sluice.io/v1alpha1", found "v2"`},
		"kind":               {"apiVersion: sluice.io/v1alpha1\nkind: Config\n", nil, `kind: expected "Configuration"`},
		"mode":               {head + "proxy: {mode: ebpf}\n", nil, `proxy.mode: expected one of`},
		"flag":               {head, []string{"--dns-listen=nowhere"}, `--dns-listen`},
		"namespace":          {head + "dns: {filter: {namespaces: [a, B]}}\n", nil, `dns.filter.namespaces[1]: expected a DNS name in lower case, found "B"`},
		"prefix":             {head + "proxy: {serviceCIDRs: [10.0.0.0/8, 10.0.0.1]}\n", nil, `: proxy.serviceCIDRs[1]: expected a range such as 10.0.0.0/8, found "10.0.0.1"`},
		"deep prefix":        {head + "proxy: {ipvs: {excludeCIDRs: [1.2.3.4]}}\n", nil, `: proxy.ipvs.excludeCIDRs[0]: expected a range such as 10.0.0.0/8, found "1.2.3.4"`},
		"address":            {head + "gateways: {addresses: [x]}\n", nil, `: gateways.addresses[0]: expected an address such as 10.0.0.1, found "x"`},
		"address and port":   {head + "dns: {listen: [x]}\n", nil, `: dns.listen[0]: expected ADDRESS:PORT, found "x"`},
		"duration":           {head + "proxy: {ipvs: {tcpTimeout: soon}}\n", nil, `: proxy.ipvs.tcpTimeout: expected a duration such as 10s, found "soon"`},
		"switch":             {head + "proxy: {masqueradeAll: 1}\n", nil, `: proxy.masqueradeAll: expected true or false, found 1`},
		"list":               {head + "proxy: {nodePortAddresses: all}\n", nil, `: proxy.nodePortAddresses: expected a list, found "all"`},
		"object":             {head + "proxy: {ipvs: rr}\n", nil, `: proxy.ipvs: expected an object, found "rr"`},
		"prefix by flag":     {head, []string{"--proxy-ipvs-exclude-cidrs=1.2.3.4"}, `"--proxy-ipvs-exclude-cidrs" flag: expected a range such as 10.0.0.0/8, found "1.2.3.4"`},
		"address by flag":    {head, []string{"--gateways-addresses=x"}, `"--gateways-addresses" flag: expected an address such as 10.0.0.1, found "x"`},
		"port by flag":       {head, []string{"--dns-listen=x"}, `"--dns-listen" flag: expected ADDRESS:PORT, found "x"`},
		"number by flag":     {head, []string{"--proxy-oom-score-adj=x"}, `"--proxy-oom-score-adj" flag: expected a number, found "x"`},
		"life":               {head + "mesh: {certificateLife: 1s}\n", nil, `mesh.certificateLife: expected at least 1m0s, found 1s`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, c.text, c.args...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
		})
	}
}

// TestSwitches proves that on and off need no quotes.
func TestSwitches(t *testing.T) {
	for text, want := range map[string]Switch{"on": "on", "off": "off", "auto": "auto", `"off"`: "off", "true": "on"} {
		c, err := load(t, head+"dns: {intercept: {mode: "+text+"}}\n")
		if err != nil || c.DNS.Intercept.Mode != want {
			t.Errorf("%s: %q, %v", text, c.DNS.Intercept.Mode, err)
		}
	}
	if _, err := load(t, head+"dns: {intercept: {mode: 1}}\n"); err == nil || !strings.Contains(err.Error(), "dns.intercept.mode: expected text, found 1") {
		t.Errorf("a number: %v", err)
	}
}

// TestEveryFieldHasAFlag proves that what can be written in the file can be
// given as a flag, and that both read the same text.
func TestEveryFieldHasAFlag(t *testing.T) {
	c := Default()
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	c.Flags(set)
	set.VisitAll(func(f *pflag.Flag) {
		if f.Usage == "" {
			t.Errorf("--%s has no help", f.Name)
		}
		if err := f.Value.Set(f.Value.String()); err != nil {
			t.Errorf("--%s does not take its own default %q: %v", f.Name, f.Value, err)
		}
	})
	b, err := yaml.Marshal(Default())
	if err != nil {
		t.Fatal(err)
	}
	var again Configuration
	if err := again.parse(b); err != nil {
		t.Errorf("the default does not load: %v\n%s", err, b)
	}
}

// TestDNSCache reads the cache's limits, and names those that cannot be.
func TestDNSCache(t *testing.T) {
	c, err := load(t, head+"dns: {cache: {mib: 4, stale: 0s, prefetch: 0, failureTTL: 5s}}\n")
	if err != nil || c.DNS.Cache.MiB != 4 || c.DNS.Cache.Stale.Duration != 0 || c.DNS.Cache.Prefetch != 0 || c.DNS.Cache.MaxTTL.Duration != time.Hour {
		t.Errorf("%+v, %v", c.DNS.Cache, err)
	}
	for field, bad := range map[string]string{
		"dns.cache.mib": "mib: 0", "dns.cache.failureTTL": "failureTTL: 6s", "dns.cache.stale": "stale: -1s", "dns.cache.maxTTL": "maxTTL: 0s",
	} {
		c, err := load(t, head+"dns: {cache: {"+bad+"}}\n")
		if err == nil {
			err = c.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestDNSMistakes names the key of what would be ignored, or cannot be told to
// clients.
func TestDNSMistakes(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"burst alone":            {"rateLimit: {burst: 10}", `dns.rateLimit.burst: expected dns.rateLimit.perSecond with it`},
		"certificate alone":      {"tls: {certFile: a}", `dns.tls.certFile: expected dns.tls.listen with it`},
		"key alone":              {"tls: {keyFile: a}", `dns.tls.keyFile: expected dns.tls.listen with it`},
		"search alone":           {"search: [a.example]", `dns.search: expected dns.autopath with it`},
		"two rewrites":           {"rewrites: [a.example=b.example, A.example.=c.example]", `dns.rewrites[1]: expected each name once, found "a.example", which dns.rewrites[0] has`},
		"two lives":              {"cache: {zones: [a.example=3s, b.example=3s, A.example.=1s]}", `dns.cache.zones[2]: expected each name once, found "a.example", which dns.cache.zones[0] has`},
		"main zone":              {"zones: [x.local, cluster.local.]", `dns.zones[1]: expected a zone besides zone, found "cluster.local."`},
		"zone twice":             {"zones: [x.local, x.local]", `dns.zones[1]: expected each zone once, found "x.local" again`},
		"long label":             {"zones: [" + strings.Repeat("a", 64) + ".local]", `dns.zones[0]: expected a DNS name`},
		"empty listen":           {`listen: ["127.0.0.1:53", ""]`, `dns.listen[1]: expected ADDRESS:PORT, found ""`},
		"empty TLS listen":       {`tls: {listen: [""], certFile: a, keyFile: a}`, `dns.tls.listen[0]: expected ADDRESS:PORT, found ""`},
		"listen twice":           {`{listen: ["127.0.0.1:53"], tls: {listen: ["127.0.0.1:53"], certFile: a, keyFile: a}}`, `dns.tls.listen[0]: expected each address once, found 127.0.0.1:53, which dns.listen[0] has`},
		"empty capture":          {`intercept: {addresses: [""]}`, `dns.intercept.addresses[0]: expected an address, found ""`},
		"TTL of parts":           {"ttl: 1500ms", `dns.ttl: expected whole seconds from 0s to 1h0m0s, found 1.5s`},
		"TTL too long":           {"ttl: 3601s", `dns.ttl: expected whole seconds from 0s to 1h0m0s, found 1h0m1s`},
		"TTL of hosts of parts":  {"hosts: {ttl: 10ms}", `dns.hosts.ttl: expected whole seconds`},
		"cache's TTL of parts":   {"cache: {maxTTL: 1500ms}", `dns.cache.maxTTL: expected whole seconds`},
		"negative TTL of parts":  {"cache: {maxNegativeTTL: 1500ms}", `dns.cache.maxNegativeTTL: expected whole seconds`},
		"failure's TTL of parts": {"cache: {failureTTL: 1500ms}", `dns.cache.failureTTL: expected whole seconds`},
		"stale of parts":         {"cache: {stale: 1500ms}", `dns.cache.stale: expected whole seconds`},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.HasPrefix(c.text, "{") {
				c.text = "{" + c.text + "}"
			}
			if _, err := load(t, head+"dns: "+c.text+"\n"); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
		})
	}
}

// TestDNSTTL0 is the TTL that the range of CoreDNS' kubernetes plugin begins with.
func TestDNSTTL0(t *testing.T) {
	c, err := load(t, head+"dns: {ttl: 0s, hosts: {ttl: 0s}}\n")
	if err != nil || c.DNS.TTL.Duration != 0 || c.DNS.Hosts.TTL.Duration != 0 {
		t.Errorf("%v, %v, %v", c.DNS.TTL, c.DNS.Hosts.TTL, err)
	}
}
