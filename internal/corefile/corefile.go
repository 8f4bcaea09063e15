// Package corefile turns a Corefile of CoreDNS, such as that of NodeLocal DNSCache,
// into a configuration of our own, and says what of it could not be carried over.
package corefile

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/sluicenet/sluice/internal/config"
)

// Note is something of a Corefile that is not in the configuration.
type Note struct {
	Line int
	What string // as the Corefile has it
	Why  string
	// Lost says that the Corefile asks for something that is not done. Otherwise
	// it asks for what is done anyway, or needs no saying.
	Lost bool
}

// String returns the note as a line.
func (n Note) String() string { return fmt.Sprintf("line %d: %s: %s", n.Line, n.What, n.Why) }

// Import reads a Corefile, or a ConfigMap in YAML that holds one. zone is the
// cluster's; empty: the one that the Corefile is for, as far as can be seen.
func Import(text []byte, zone string) (config.Configuration, []Note, error) {
	c := config.Default()
	corefile, err := extract(text)
	if err != nil {
		return c, nil, err
	}
	blocks, err := parse(corefile)
	if err != nil {
		return c, nil, err
	}
	if len(blocks) == 0 {
		return c, nil, fmt.Errorf("%w: it has no server block", errSyntax)
	}
	im := &importer{c: &c}
	if err := im.run(blocks, zone); err != nil {
		return c, nil, err
	}
	slices.SortStableFunc(im.notes, func(a, b Note) int { return a.Line - b.Line })
	return c, slices.Compact(im.notes), nil
}

// extract returns the Corefile of a ConfigMap, or the text itself.
func extract(text []byte) (string, error) {
	var m struct {
		Kind  string            `json:"kind"`
		Data  map[string]string `json:"data"`
		Items []struct {
			Kind string            `json:"kind"`
			Data map[string]string `json:"data"`
		} `json:"items"`
	}
	if err := yaml.Unmarshal(text, &m); err != nil || m.Kind == "" {
		return string(text), nil // whatever is wrong is wrong with a Corefile
	}
	data := []map[string]string{m.Data}
	for _, item := range m.Items {
		data = append(data, item.Data)
	}
	for _, d := range data {
		for _, key := range slices.Sorted(maps.Keys(d)) {
			if strings.HasPrefix(key, "Corefile") {
				return d[key], nil
			}
		}
	}
	return "", fmt.Errorf("%w: the %s has no key Corefile", errSyntax, m.Kind)
}

// YAML returns what of a configuration is not as it would be without.
func YAML(c *config.Configuration) ([]byte, error) {
	def := config.Default()
	whole, err := tree(c)
	if err != nil {
		return nil, err
	}
	without, err := tree(&def)
	if err != nil {
		return nil, err
	}
	prune(whole, without)
	whole["apiVersion"], whole["kind"] = config.APIVersion, config.Kind
	return yaml.Marshal(whole)
}

func tree(c *config.Configuration) (map[string]any, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	return m, json.Unmarshal(b, &m)
}

// prune removes what is the same in both.
func prune(m, without map[string]any) {
	for key, value := range m {
		inner, isMap := value.(map[string]any)
		other, otherMap := without[key].(map[string]any)
		if isMap && otherMap {
			prune(inner, other)
			if len(inner) == 0 {
				delete(m, key)
			}
			continue
		}
		if reflect.DeepEqual(value, without[key]) {
			delete(m, key)
		}
	}
}

// Report writes the notes for people: first what is lost.
func Report(notes []Note) string {
	var b strings.Builder
	for _, part := range []struct {
		title string
		lost  bool
	}{{"Not carried over:", true}, {"Not needed:", false}} {
		title := part.title + "\n"
		for _, n := range notes {
			if n.Lost == part.lost {
				b.WriteString(title + "  " + n.String() + "\n")
				title = ""
			}
		}
	}
	return b.String()
}
