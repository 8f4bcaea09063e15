package nftables

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
)

// reloadJSON loads what nft prints of the tables as JSON. Versions of nft that
// print as JSON what they cannot read say so, and of that alone: of maps with several
// fields of data, and of numbers as parts of a key, whose typeof is not in JSON. All
// the rest must load and be printed as before.
func (w *world) reloadJSON() {
	w.t.Helper()
	load := func(objects []map[string]any) string {
		w.t.Helper()
		b, err := json.Marshal(map[string]any{"nftables": append([]map[string]any{{"flush": map[string]any{"ruleset": nil}}}, objects...)})
		w.must(err)
		file := w.t.TempDir() + "/ruleset.json"
		w.must(os.WriteFile(file, b, 0o600))
		out, err := w.node1.Command(w.t.Context(), "nft", "-j", "-f", file).CombinedOutput()
		if err != nil && len(out) == 0 {
			w.t.Fatal(err)
		}
		return string(out)
	}
	all := w.listJSON()
	if said := load(all); said == "" {
		return
	} else if !strings.Contains(said, "Invalid map type 'ipv4_addr . inet_service'") {
		w.t.Fatalf("nft says of its own JSON: %s", said)
	}
	// It reads them in no form: of a list of types it makes a set that is no map.
	var rest []map[string]any
	left := map[string]bool{}
	for _, o := range all {
		if m, ok := o["map"].(map[string]any); ok {
			data, _ := m["map"].(string)
			key, _ := m["type"].([]any)
			if strings.Contains(data, " . ") || slices.Contains(key, any("integer")) {
				left["@"+m["name"].(string)] = true
			}
		}
	}
	for _, o := range all {
		b, err := json.Marshal(o)
		w.must(err)
		m, _ := o["map"].(map[string]any)
		uses := false
		for name := range left {
			uses = uses || strings.Contains(string(b), `"`+name+`"`)
		}
		if uses || m != nil && left["@"+m["name"].(string)] {
			continue
		}
		rest = append(rest, o)
	}
	// It lists maps before the chains that they lead to, and loads things in order.
	order := func(o map[string]any) int {
		switch {
		case o["table"] != nil:
			return 0
		case o["chain"] != nil:
			return 1
		case o["rule"] != nil:
			return 3
		}
		return 2
	}
	slices.SortStableFunc(rest, func(a, b map[string]any) int { return order(a) - order(b) })
	if len(left) == 0 || len(left) > 6 {
		w.t.Fatalf("of %d objects, %d can be loaded; maps that cannot: %v", len(all), len(rest), left)
	}
	if said := load(rest); said != "" {
		w.t.Fatalf("nft says of its own JSON, without what it cannot read: %s", said)
	}
	if got, want := slices.Sorted(slices.Values(lines(w.listJSON()))), slices.Sorted(slices.Values(lines(rest))); !slices.Equal(got, want) {
		w.t.Errorf("loaded as JSON, there is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// listJSON returns the objects of the rule set, without what changes by itself.
func (w *world) listJSON() []map[string]any {
	w.t.Helper()
	var doc struct {
		Nftables []map[string]any `json:"nftables"`
	}
	w.must(json.Unmarshal([]byte(w.nft("-s", "-j", "list", "ruleset")), &doc))
	return slices.DeleteFunc(doc.Nftables, func(o map[string]any) bool { return o["metainfo"] != nil })
}

// lines prints objects without their handles, and without elements that expire.
func lines(objects []map[string]any) []string {
	var out []string
	for _, o := range objects {
		for _, v := range o {
			if m, ok := v.(map[string]any); ok {
				delete(m, "handle")
				if m["name"] == specs[setAffinity].name {
					delete(m, "elem")
				}
			}
		}
		b, _ := json.Marshal(o)
		out = append(out, string(b))
	}
	return out
}
