package mesh

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/source"
)

// world is a store with a planner behind it, and all that the planner has
// said so far: the state of an applier.
type world struct {
	t         testing.TB
	store     *model.Store
	watcher   *model.Watcher
	planner   *Planner
	resources map[route.Ref]route.Change
	splits    map[model.Key]*model.Split
	reports   map[model.Key]*status.Report
	last      Result
}

var testConfig = Config{ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}}

func newWorld(t testing.TB, conf Config) *world {
	w := &world{
		t: t, store: model.NewStore(), planner: NewPlanner(conf),
		resources: map[route.Ref]route.Change{}, splits: map[model.Key]*model.Split{}, reports: map[model.Key]*status.Report{},
	}
	w.watcher = w.store.Watch()
	return w
}

// put adds the objects of a manifest.
func (w *world) put(manifest string) {
	w.t.Helper()
	objects, problems := source.Decode([]byte(manifest))
	for _, p := range problems {
		w.t.Fatal(p)
	}
	w.store.Update(func(tx *model.Txn) {
		for _, o := range objects {
			tx.Put(o.Key.Kind, o.Value)
		}
	})
}

func (w *world) delete(kind model.KindID, name string) {
	ns, name, _ := strings.Cut(name, "/")
	w.store.Update(func(tx *model.Txn) { tx.Delete(model.Key{Kind: kind, Namespace: ns, Name: name}) })
}

// plan lets the planner see what changed.
func (w *world) plan() *world {
	w.t.Helper()
	up, err := w.watcher.Next(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.apply(w.planner.Update(up))
	return w
}

func (w *world) apply(res Result) {
	w.t.Helper()
	w.last = res
	seen := map[route.Ref]bool{}
	for _, c := range res.Changes {
		if seen[c.Ref] {
			w.t.Errorf("%v changes twice in one result", c.Ref)
		}
		seen[c.Ref] = true
		if c.Resource != nil {
			w.resources[c.Ref] = c
			continue
		}
		if _, had := w.resources[c.Ref]; !had {
			w.t.Errorf("%v is removed but was not there", c.Ref)
		}
		delete(w.resources, c.Ref)
	}
	for _, s := range res.PutSplits {
		w.splits[model.Splits.Key(s)] = s
	}
	for _, key := range res.DeleteSplits {
		if w.splits[key] == nil {
			w.t.Errorf("%v is removed but was not there", key)
		}
		delete(w.splits, key)
	}
	for key, r := range res.Reports {
		if r == nil {
			delete(w.reports, key)
		} else {
			w.reports[key] = r
		}
	}
}

// finish lets all changes that wait take their next steps, with all proxies
// current.
func (w *world) finish() {
	w.t.Helper()
	for range 10 {
		if !w.planner.Waiting() {
			return
		}
		w.apply(w.planner.Advance(time.Unix(1, 0), current))
	}
	w.t.Error("a change waits though all proxies are current")
}

func current(g route.Group) route.Progress { return route.Progress{Group: g, Proxies: 1, Current: 1} }

// String is all that the planner has said, as text.
func (w *world) String() string {
	var b strings.Builder
	refs := slices.SortedFunc(maps.Keys(w.resources), func(a, b route.Ref) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	for _, ref := range refs {
		c := w.resources[ref]
		fmt.Fprintf(&b, "%v\n\t%s\n", ref, show(c.Resource))
		if len(c.Origins) > 0 {
			fmt.Fprintf(&b, "\tof %v\n", c.Origins)
		}
	}
	for _, key := range sortedFunc(w.splits) {
		fmt.Fprintf(&b, "%v\n\t%s\n", key, show(w.splits[key]))
	}
	for _, key := range sortedFunc(w.reports) {
		fmt.Fprintf(&b, "%v\n", key)
		for _, c := range w.reports[key].Conditions {
			fmt.Fprintf(&b, "\t%s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
		}
	}
	return b.String()
}

func sortedFunc[V any](m map[model.Key]V) []model.Key {
	return slices.SortedFunc(maps.Keys(m), func(a, b model.Key) int { return strings.Compare(a.String(), b.String()) })
}

// show prints a value on one line, without what is zero.
func show(v any) string { return shown(reflect.ValueOf(v)) }

func shown(v reflect.Value) string {
	if v.CanInterface() {
		switch x := v.Interface().(type) {
		case netip.AddrPort, netip.Prefix, netip.Addr, model.Key, model.Name, time.Duration:
			return fmt.Sprint(x)
		}
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return shown(v.Elem())
	case reflect.String:
		if s := v.String(); s != "" && !strings.ContainsAny(s, " {}[]") {
			return s
		}
		return fmt.Sprintf("%q", v.String())
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = shown(v.Index(i))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case reflect.Map:
		var parts []string
		for _, k := range v.MapKeys() {
			parts = append(parts, shown(k)+":"+shown(v.MapIndex(k)))
		}
		slices.Sort(parts)
		return "[" + strings.Join(parts, " ") + "]"
	case reflect.Struct:
		var parts []string
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				parts = append(parts, v.Type().Field(i).Name+":"+shown(v.Field(i)))
			}
		}
		return "{" + strings.Join(parts, " ") + "}"
	}
	return fmt.Sprint(v)
}
