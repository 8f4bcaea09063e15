package ingress

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source"
	"github.com/sluicenet/sluice/xds/translate"
)

var update = flag.Bool("update", false, "write the golden files")

// TestPlan plans the manifests of each case. A golden file holds the resources
// of the proxies and the status of the objects.
func TestPlan(t *testing.T) {
	inputs, err := filepath.Glob("testdata/plan/*.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no cases", err)
	}
	for _, input := range inputs {
		name := strings.TrimSuffix(filepath.Base(input), ".yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := append(decode(t, "testdata/certs.yaml"), decode(t, input)...)
			p := NewPlanner(PlannerOptions{Standalone: true})
			got := newState()
			all := p.Update(everything(storeOf(objects)))
			got.apply(all)
			translates(t, all)

			golden := strings.TrimSuffix(input, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}

			// One object after the other, in both directions, leads to
			// the same.
			for _, order := range []string{"forwards", "backwards"} {
				if diff := cmp.Diff(got.String(), oneByOne(objects, order == "backwards").String()); diff != "" {
					t.Errorf("planned one by one, %s (-at once +one by one):\n%s", order, diff)
				}
			}
		})
	}
}

// translates checks that what is planned can be put into Envoy's terms: what
// Envoy would refuse is to be a condition of the object already.
func translates(t testing.TB, r Result) {
	t.Helper()
	_, failures := translate.New().Apply(r.Changes)
	for _, f := range failures {
		t.Errorf("%s does not translate: %v", f.Ref, f.Err)
	}
}

func decode(t testing.TB, file string) []source.Object {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return decodeText(t, string(text))
}

func decodeText(t testing.TB, text string) []source.Object {
	t.Helper()
	objects, problems := source.Decode([]byte(text))
	for _, p := range problems {
		t.Logf("line %d: %v", p.Line, p.Err)
	}
	return objects
}

func storeOf(objects []source.Object) *model.Store {
	s := model.NewStore()
	s.Update(func(tx *model.Txn) {
		for _, o := range objects {
			tx.Put(o.Key.Kind, o.Value)
		}
	})
	return s
}

// everything is the step from nothing to what the store holds.
func everything(s *model.Store) model.Update {
	snap := s.Snapshot()
	u := model.Update{Old: model.Empty(), New: snap}
	for _, kind := range Kinds() {
		for key := range snap.Keys(kind) {
			u.Changed = append(u.Changed, key)
		}
	}
	return u
}

// oneByOne plans after each object that is added, and takes the first half
// away and puts it back in between.
func oneByOne(objects []source.Object, backwards bool) *state {
	p, got := NewPlanner(PlannerOptions{Standalone: true}), newState()
	store := model.NewStore()
	step := func(change func(*model.Txn), key model.Key) {
		old := store.Snapshot()
		store.Update(change)
		got.apply(p.Update(model.Update{Old: old, New: store.Snapshot(), Changed: []model.Key{key}}))
	}
	put := func(i int) {
		o := objects[i]
		step(func(tx *model.Txn) { tx.Put(o.Key.Kind, o.Value) }, o.Key)
	}
	at := func(i int) int {
		if backwards {
			return len(objects) - 1 - i
		}
		return i
	}
	for i := range objects {
		put(at(i))
	}
	for i := range len(objects) / 2 {
		key := objects[at(i)].Key
		step(func(tx *model.Txn) { tx.Delete(key) }, key)
	}
	for i := range len(objects) / 2 {
		put(at(i))
	}
	return got
}
