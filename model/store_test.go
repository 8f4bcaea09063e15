package model

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// next returns an update that must be there already.
func next(t *testing.T, w *Watcher) Update {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	up, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return up
}

func names(keys []Key) string {
	var out []string
	for _, k := range keys {
		out = append(out, k.String())
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func svc(name string, ips ...string) *Service {
	s := &Service{Meta: Meta{Namespace: "default", Name: name}}
	for _, ip := range ips {
		s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(ip))
	}
	return s
}

func TestWatcherSees(t *testing.T) {
	a, b, a2 := svc("a"), svc("b"), svc("a")
	put := func(objs ...*Service) func(*Txn) {
		return func(tx *Txn) {
			for _, o := range objs {
				Services.Put(tx, o)
			}
		}
	}
	del := func(name string) func(*Txn) {
		return func(tx *Txn) { tx.Delete(Key{KindService, "default", name}) }
	}
	for _, c := range []struct {
		name    string
		updates []func(*Txn)
		want    string // what one Next says of all of them
	}{
		{"nothing before the first", nil, ""},
		{"one", []func(*Txn){put(a)}, "Service default/a"},
		{"two in one update", []func(*Txn){put(a, b)}, "Service default/a, Service default/b"},
		{"two updates merged", []func(*Txn){put(a), put(b)}, "Service default/a, Service default/b"},
		{"the same twice is one", []func(*Txn){put(a), put(a2)}, "Service default/a"},
		{"put and gone again is none", []func(*Txn){put(a), put(b), del("a")}, "Service default/b"},
		{"the delete of what is not there is none", []func(*Txn){del("x"), put(b)}, "Service default/b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewStore()
			w := s.Watch()
			defer w.Stop()
			for _, u := range c.updates {
				s.Update(u)
			}
			up := next(t, w)
			if got := names(up.Changed); got != c.want {
				t.Errorf("changed %q, want %q", got, c.want)
			}
			if up.New != s.Snapshot() || up.Old.Revision() != 0 {
				t.Error("not the step from nothing to the newest")
			}
		})
	}
}

// TestChangedBack proves that a watcher which slept through a change and its
// opposite is not woken for nothing.
func TestChangedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore()
		a := svc("a")
		s.Update(func(tx *Txn) { Services.Put(tx, a) })
		w := s.Watch()
		defer w.Stop()
		next(t, w)
		s.Update(func(tx *Txn) { Services.Put(tx, svc("a")) })
		s.Update(func(tx *Txn) { Services.Put(tx, a) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if up, err := w.Next(ctx); err == nil {
			t.Errorf("woken for %v", up.Changed)
		}
	})
}

func TestSynced(t *testing.T) {
	s := NewStore()
	w := s.Watch()
	defer w.Stop()
	if next(t, w).New.Synced(KindService) {
		t.Error("synced from the start")
	}
	s.Update(func(tx *Txn) { tx.MarkSynced(KindService) })
	up := next(t, w)
	if !up.New.Synced(KindService) || up.New.Synced(KindService, KindPod) || len(up.Changed) != 0 {
		t.Errorf("update: %+v", up)
	}
}

// TestSlowWatcher proves that one who never looks holds up neither the store
// nor another.
func TestSlowWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore()
		slow, fast := s.Watch(), s.Watch()
		defer slow.Stop()
		defer fast.Stop()
		next(t, fast)
		for i := range 1000 {
			s.Update(func(tx *Txn) { Services.Put(tx, svc(fmt.Sprint("s", i%10))) })
			if up := next(t, fast); len(up.Changed) != 1 {
				t.Fatalf("step %d: %v", i, up.Changed)
			}
		}
		if up := next(t, slow); len(up.Changed) != 10 {
			t.Errorf("the slow one sees %d", len(up.Changed))
		}
	})
}

func TestStoppedWatcher(t *testing.T) {
	s := NewStore()
	w := s.Watch()
	w.Stop()
	s.Update(func(tx *Txn) { Services.Put(tx, svc("a")) })
	if len(s.watchers) != 0 || len(w.pending) != 0 {
		t.Error("a stopped watcher still gathers")
	}
}

// oracle is the store as plain maps.
type oracle struct {
	objects map[Key]any
	synced  uint64
}

func (o oracle) clone() oracle { return oracle{maps.Clone(o.objects), o.synced} }

// check compares a snapshot with the oracle by every way of reading it.
func (o oracle) check(t *testing.T, what string, s *Snapshot) {
	t.Helper()
	byKind := map[KindID][]Key{}
	for key, obj := range o.objects {
		byKind[key.Kind] = append(byKind[key.Kind], key)
		if s.Any(key) != obj || !s.Has(key) {
			t.Fatalf("%s: %s is %v, want %v", what, key, s.Any(key), obj)
		}
	}
	for _, kind := range []KindID{KindService, KindEndpointSlice, KindPod, KindNode} {
		want := byKind[kind]
		slices.SortFunc(want, func(a, b Key) int {
			return strings.Compare(a.Namespace+"\x00"+a.Name, b.Namespace+"\x00"+b.Name)
		})
		if got := slices.Collect(s.Keys(kind)); !slices.Equal(got, want) {
			t.Fatalf("%s: keys %v, want %v", what, got, want)
		}
	}
	for _, ns := range []string{"a", "a-b", "b"} {
		var want []*Service
		for _, key := range byKind[KindService] {
			if key.Namespace == ns {
				want = append(want, o.objects[key].(*Service))
			}
		}
		if got := slices.Collect(Services.In(s, ns)); !slices.Equal(got, want) {
			t.Fatalf("%s: Services in %s: %v, want %v", what, ns, got, want)
		}
	}
	if got, want := Services.Len(s), len(byKind[KindService]); got != want {
		t.Fatalf("%s: %d Services, want %d", what, got, want)
	}
	for i := range 8 {
		ip := fmt.Sprintf("10.0.0.%d", i)
		var svcs []*Service
		for _, key := range byKind[KindService] {
			if v := o.objects[key].(*Service); slices.Contains(v.ClusterIPs, netip.MustParseAddr(ip)) {
				svcs = append(svcs, v)
			}
		}
		if got := slices.Collect(ServicesByIP.Find(s, ip)); !slices.Equal(got, svcs) {
			t.Fatalf("%s: Services of %s: %v, want %v", what, ip, got, svcs)
		}
		var pods []*Pod
		for _, key := range byKind[KindPod] {
			if v := o.objects[key].(*Pod); !v.HostNetwork && !v.Terminated && slices.Contains(v.IPs, netip.MustParseAddr(ip)) {
				pods = append(pods, v)
			}
		}
		if got := slices.Collect(PodsByIP.Find(s, ip)); !slices.Equal(got, pods) {
			t.Fatalf("%s: Pods of %s: %v, want %v", what, ip, got, pods)
		}
		for _, ns := range []string{"a", "a-b", "b"} {
			pods = nil
			for _, key := range byKind[KindPod] {
				if v := o.objects[key].(*Pod); v.HostNetwork && !v.Terminated && v.Namespace == ns && slices.Contains(v.IPs, netip.MustParseAddr(ip)) {
					pods = append(pods, v)
				}
			}
			if got := slices.Collect(HostPodsByIP.Find(s, ns+"/"+ip)); !slices.Equal(got, pods) {
				t.Fatalf("%s: Pods of %s on the host's network, with %s: %v, want %v", what, ns, ip, got, pods)
			}
		}
	}
	for _, name := range []string{"x", "xy", "y"} {
		for _, ns := range []string{"a", "a-b", "b"} {
			var want []*EndpointSlice
			for _, key := range byKind[KindEndpointSlice] {
				if v := o.objects[key].(*EndpointSlice); v.Namespace == ns && v.Service == name {
					want = append(want, v)
				}
			}
			if got := slices.Collect(SlicesByService.Find(s, ns+"/"+name)); !slices.Equal(got, want) {
				t.Fatalf("%s: slices of %s/%s: %v, want %v", what, ns, name, got, want)
			}
		}
	}
}

// object makes a random object; its names are few, so that it often replaces
// another, and some begin like others.
func object(r *rand.Rand) (KindID, any) {
	pick := func(in ...string) string { return in[r.IntN(len(in))] }
	ip := func() netip.Addr { return netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", r.IntN(8))) }
	meta := Meta{Namespace: pick("a", "a-b", "b"), Name: pick("x", "xy", "y", "z")}
	switch r.IntN(4) {
	case 0:
		return KindService, &Service{Meta: meta, ClusterIPs: []netip.Addr{ip()}}
	case 1:
		return KindEndpointSlice, &EndpointSlice{Meta: meta, Service: pick("", "x", "xy", "y")}
	case 2:
		return KindPod, &Pod{Meta: meta, IPs: []netip.Addr{ip(), netip.MustParseAddr("fd00::1")}, HostNetwork: r.IntN(4) == 0, Terminated: r.IntN(4) == 0}
	default:
		return KindNode, &Node{Meta: Meta{Name: meta.Name}}
	}
}

// TestRandomWalk compares the store with plain maps after every step, and what
// watchers of different paces are told with the difference of the maps. Every
// snapshot that was taken on the way must be at the end what it was.
func TestRandomWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	type taken struct {
		snapshot *Snapshot
		oracle   oracle
	}
	type watching struct {
		w    *Watcher
		pace int // steps between looks
		seen oracle
		from *Snapshot
	}
	s, now := NewStore(), oracle{objects: map[Key]any{}}
	var history []taken
	var watchers []*watching
	for step := range 600 {
		s.Update(func(tx *Txn) {
			for range r.IntN(4) {
				kind, obj := object(r)
				o := obj.(interface {
					GetNamespace() string
					GetName() string
				})
				key := Key{kind, o.GetNamespace(), o.GetName()}
				if r.IntN(3) == 0 {
					tx.Delete(key)
					delete(now.objects, key)
				} else {
					tx.Put(kind, o)
					now.objects[key] = obj
				}
				if tx.Any(key) != now.objects[key] {
					t.Fatalf("step %d: the transaction has %v for %s", step, tx.Any(key), key)
				}
			}
		})
		now.check(t, fmt.Sprint("step ", step), s.Snapshot())
		if step%50 == 0 {
			history = append(history, taken{s.Snapshot(), now.clone()})
			watchers = append(watchers, &watching{w: s.Watch(), pace: 1 + r.IntN(20), seen: oracle{objects: map[Key]any{}}, from: Empty()})
		}
		for _, w := range watchers {
			if step%w.pace != 0 {
				continue
			}
			var want []Key
			for key, obj := range now.objects {
				if w.seen.objects[key] != obj {
					want = append(want, key)
				}
			}
			for key := range w.seen.objects {
				if _, there := now.objects[key]; !there {
					want = append(want, key)
				}
			}
			if len(want) == 0 {
				continue // Next would wait, rightly
			}
			up := next(t, w.w)
			if names(up.Changed) != names(want) {
				t.Fatalf("step %d: changed %s, want %s", step, names(up.Changed), names(want))
			}
			if up.New != s.Snapshot() {
				t.Fatalf("step %d: not the newest snapshot", step)
			}
			w.seen.check(t, fmt.Sprint("old of step ", step), up.Old)
			w.seen, w.from = now.clone(), up.New
		}
		if len(watchers) > 5 {
			watchers[0].w.Stop()
			watchers = watchers[1:]
		}
	}
	for i, h := range history {
		h.oracle.check(t, fmt.Sprint("snapshot ", i), h.snapshot)
	}
}

func TestNames(t *testing.T) {
	for id := range kindCount {
		got, ok := KindByName(id.String())
		if !ok || got != id {
			t.Errorf("%s is no name of its own", id)
		}
	}
	if _, ok := KindByName("Nonsense"); ok {
		t.Error("Nonsense is a kind")
	}
	for _, c := range []struct {
		key  Key
		want string
	}{
		{Key{KindService, "default", "web"}, "Service default/web"},
		{Key{KindGatewayClass, "", "sluice"}, "GatewayClass sluice"},
	} {
		if got := c.key.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
