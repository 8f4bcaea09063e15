package files

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source"
)

// decode returns the Services of a stream, by name.
func decode(t *testing.T, stream string) []change {
	t.Helper()
	objects, problems := source.Decode([]byte(stream))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var out []change
	for _, o := range objects {
		slim(&o)
		out = append(out, change{o.Key, &o})
	}
	slices.SortFunc(out, func(a, b change) int { return compareKeys(a.key, b.key) })
	return out
}

// spec makes a Service of a name and a spec in one line.
func spec(name, s string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {%s}\n", name, s)
}

// assigned prints what a Service was given.
func assigned(s *model.Service) string {
	var out []string
	for _, ip := range s.ClusterIPs {
		out = append(out, ip.String())
	}
	for _, p := range s.Ports {
		if p.NodePort != 0 {
			out = append(out, fmt.Sprintf("%d/%s", p.NodePort, p.Protocol))
		}
	}
	if s.HealthCheckNodePort != 0 {
		out = append(out, fmt.Sprintf("health %d", s.HealthCheckNodePort))
	}
	return strings.Join(out, " ")
}

func serviceKey(name string) model.Key {
	return model.Key{Kind: model.KindService, Namespace: "default", Name: name}
}

func TestAllocate(t *testing.T) {
	both := DefaultServiceCIDRs()
	for _, c := range []struct {
		name, spec string
		cidrs      []netip.Prefix
		want       string // as assigned prints it
		families   string
		problem    string
	}{
		{"one family by default", "ports: [{port: 80}]", both, "10.99.36.20", "IPv4", ""},
		{"the default family is the first range's", "ports: [{port: 80}]", []netip.Prefix{both[1], both[0]}, "fd00:10:96::91d4", "IPv6", ""},
		{"both if preferred", "ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]", both, "10.99.36.20 fd00:10:96::91d4", "IPv4 IPv6", ""},
		{"one if both are preferred and one is there", "ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]", both[:1], "10.99.36.20", "IPv4", ""},
		{"both are required and one is there", "ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]", both[:1], "10.99.36.20", "IPv4", "spec.ipFamilyPolicy"},
		{"the order is the manifest's", "ipFamilies: [IPv6, IPv4], ports: [{port: 80}]", both, "fd00:10:96::91d4 10.99.36.20", "IPv6 IPv4", ""},
		{"the other family", "ipFamilies: [IPv6], ports: [{port: 80}]", both, "fd00:10:96::91d4", "IPv6", ""},
		{"a family that is not there", "ipFamilies: [IPv6], ports: [{port: 80}]", both[:1], "", "IPv6", "spec.ipFamilies[0]"},
		{"a given address, and the other family preferred", "clusterIP: 10.96.0.7, ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]", both, "10.96.0.7 fd00:10:96::91d4", "IPv4 IPv6", ""},
		{"two given addresses", "clusterIPs: [\"fd00:10:96::7\", 10.96.0.7], ports: [{port: 80}]", both, "fd00:10:96::7 10.96.0.7", "IPv6 IPv4", ""},
		{"headless", "clusterIP: None, selector: {a: b}, ports: [{port: 80}]", both, "", "IPv4", ""},
		{"headless without selector", "clusterIP: None, ports: [{port: 80}]", both, "", "IPv4 IPv6", ""},
		{"another name", "type: ExternalName, externalName: example.com", both, "", "", ""},
		{"a node port, the same for both protocols", "type: NodePort, clusterIP: 10.96.0.7, ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}]", both, "10.96.0.7 30836/TCP 30836/UDP", "IPv4", ""},
		{"a given node port", "type: NodePort, clusterIP: 10.96.0.7, ports: [{port: 80, nodePort: 30080}]", both, "10.96.0.7 30080/TCP", "IPv4", ""},
		{"a health check's port", "type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 10.96.0.7, ports: [{port: 80, nodePort: 30080}]", both, "10.96.0.7 30080/TCP health 32726", "IPv4", ""},
		{"no node ports", "type: LoadBalancer, allocateLoadBalancerNodePorts: false, clusterIP: 10.96.0.7, ports: [{port: 80}]", both, "10.96.0.7", "IPv4", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAllocator(c.cidrs)
			got := a.apply(decode(t, spec("web", c.spec)))[serviceKey("web")]
			if s := assigned(got); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
			if s := strings.Trim(fmt.Sprint(got.Families), "[]"); s != c.families {
				t.Errorf("families %q, want %q", s, c.families)
			}
			text := fmt.Sprint(a.problems(serviceKey("web")))
			if c.problem == "" && text != "[]" || !strings.Contains(text, c.problem) {
				t.Errorf("problems %s, want %q", text, c.problem)
			}
		})
	}
}

// TestConflict proves that the first keeps what two ask for, that the other
// loses only that and says so, and that it gets it when the first goes.
func TestConflict(t *testing.T) {
	a := newAllocator(DefaultServiceCIDRs())
	out := a.apply(decode(t,
		spec("b", "type: NodePort, clusterIP: 10.96.0.7, ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30081}]")+
			spec("a", "type: NodePort, clusterIP: 10.96.0.8, ports: [{port: 80, nodePort: 30080}]")+
			spec("c", "type: NodePort, clusterIP: 10.96.0.8, ports: [{port: 53, nodePort: 30080, protocol: UDP}]")))
	for name, want := range map[string]string{"a": "10.96.0.8 30080/TCP", "b": "10.96.0.7 30081/TCP", "c": "30080/UDP"} {
		if got := assigned(out[serviceKey(name)]); got != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
	if got := fmt.Sprint(a.problems(serviceKey("b"))); !strings.Contains(got, "Service default/b: spec.ports[0].nodePort: the nodePort 30080/TCP belongs to Service default/a; this Service goes without it") {
		t.Errorf("problems of b: %s", got)
	}
	if got := a.problems(serviceKey("a")); len(got) > 0 {
		t.Errorf("problems of a: %v", got)
	}
	// One that comes later does not take what another has, whatever its name.
	out = a.apply(decode(t, spec("aa", "clusterIP: 10.96.0.7, ports: [{port: 80}]")))
	if got := assigned(out[serviceKey("aa")]); got != "" || len(out) != 1 {
		t.Errorf("the late one has %q, %d changed", got, len(out))
	}
	out = a.apply([]change{{serviceKey("a"), nil}})
	for name, want := range map[string]string{"b": "10.96.0.7 30080/TCP 30081/TCP", "c": "10.96.0.8 30080/UDP"} {
		if got := out[serviceKey(name)]; got == nil || assigned(got) != want {
			t.Errorf("%s has %v, want %q", name, got, want)
		}
		if p := a.problems(serviceKey(name)); len(p) > 0 {
			t.Errorf("problems of %s: %v", name, p)
		}
	}
	if len(out) != 2 {
		t.Errorf("%d changed", len(out))
	}
}

// TestSmallRange fills a range to its last address, in the same way in
// whatever order the Services are in the directory.
func TestSmallRange(t *testing.T) {
	cidrs := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28")}
	var stream []string
	for i := range 15 {
		stream = append(stream, spec(fmt.Sprintf("s%02d", i), "ports: [{port: 80}]"))
	}
	var first map[string]string
	for range 5 {
		rand.Shuffle(len(stream), func(i, j int) { stream[i], stream[j] = stream[j], stream[i] })
		a := newAllocator(cidrs)
		got, used := map[string]string{}, map[string]bool{}
		for key, s := range a.apply(decode(t, strings.Join(stream, ""))) {
			ip := assigned(s)
			if used[ip] || ip == "192.0.2.0" || ip == "192.0.2.15" {
				t.Errorf("%s has %q", key, ip)
			}
			used[ip] = true
			got[key.Name] = ip
		}
		if len(a.problems(serviceKey("s14"))) != 1 {
			t.Error("the last one does not say that there is no address left")
		}
		if first == nil {
			first = got
		}
		if !maps.Equal(first, got) {
			t.Errorf("another order gives %v, not %v", got, first)
		}
	}
}

// TestAllocateWalk changes Services at random and checks after every step that
// nothing is given twice, nothing is lost, and nobody's addresses change but
// those of the Services that changed or waited.
func TestAllocateWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	a := newAllocator([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/26"), netip.MustParsePrefix("fd00::/122")})
	now := map[model.Key]*model.Service{}
	for step := range 600 {
		var changes []change
		for range 1 + r.IntN(3) {
			key := serviceKey(fmt.Sprintf("s%02d", r.IntN(20)))
			if slices.ContainsFunc(changes, func(c change) bool { return c.key == key }) {
				continue
			}
			if r.IntN(3) == 0 {
				if now[key] != nil {
					changes = append(changes, change{key, nil})
				}
				continue
			}
			s := []string{"type: " + []string{"ClusterIP", "NodePort"}[r.IntN(2)], "ports: [{port: 80}]"}
			if s[0] == "type: NodePort" && r.IntN(2) == 0 {
				s[1] = fmt.Sprintf("ports: [{port: 80, nodePort: %d}]", 30000+r.IntN(6))
			}
			if r.IntN(2) == 0 {
				s = append(s, fmt.Sprintf("clusterIP: 10.0.0.%d", 1+r.IntN(62)))
			}
			if r.IntN(2) == 0 {
				s = append(s, "ipFamilyPolicy: PreferDualStack")
			}
			changes = append(changes, decode(t, spec(key.Name, strings.Join(s, ", ")))...)
		}
		out := a.apply(changes)
		maps.Copy(now, out)
		for _, c := range changes {
			if c.object == nil {
				delete(now, c.key)
			}
		}
		used := map[string]model.Key{}
		for key, s := range now {
			given := assigned(s)
			for what := range strings.FieldsSeq(given) {
				if other, taken := used[what]; taken {
					t.Fatalf("step %d: %s is %s's and %s's", step, what, key, other)
				}
				used[what] = key
			}
			if s.Type == corev1.ServiceTypeNodePort && s.Ports[0].NodePort == 0 && len(a.problems(key)) == 0 {
				t.Fatalf("step %d: %s has no node port and does not say why", step, key)
			}
			if len(s.ClusterIPs) < len(s.Families) && len(a.problems(key)) == 0 {
				t.Fatalf("step %d: %s has %v of %v and does not say why", step, key, s.ClusterIPs, s.Families)
			}
			if len(s.ClusterIPs) == len(s.Families) && (s.Type != corev1.ServiceTypeNodePort || s.Ports[0].NodePort != 0) && len(a.problems(key)) > 0 && !strings.Contains(fmt.Sprint(a.problems(key)), "this Service keeps ") {
				t.Fatalf("step %d: %s lacks nothing and says %v", step, key, a.problems(key))
			}
		}
		if len(a.owners) != len(used) {
			t.Fatalf("step %d: %d owned, %d used", step, len(a.owners), len(used))
		}
	}
}
