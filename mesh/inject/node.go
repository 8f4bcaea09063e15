package inject

import (
	_ "embed"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// addition is what a Pod gets, as it is in pod.yaml.
type addition struct {
	InitContainers []*yaml.Node
	Volumes        []*yaml.Node
}

//go:embed pod.yaml
var podYAML []byte

// read fills the addition in. Values are put into the parsed document, not
// into its text, so that none of them can be more than a value.
func (a *addition) read(o Options) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(podYAML, &doc); err != nil {
		return err
	}
	fill(&doc, map[string]string{"IMAGE": o.Image, "--control-plane=CONTROLPLANE": "--control-plane=" + o.ControlPlane})
	root := doc.Content[0]
	a.InitContainers = get(root, "initContainers").Content
	a.Volumes = get(root, "volumes").Content
	return nil
}

func fill(n *yaml.Node, values map[string]string) {
	if v, ok := values[n.Value]; ok && n.Kind == yaml.ScalarNode {
		n.SetString(v)
	}
	for _, c := range n.Content {
		fill(c, values)
	}
}

// asJSON gives nodes the style of JSON.
func asJSON(n *yaml.Node) {
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str":
		n.Style = yaml.DoubleQuotedStyle
	case n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode:
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		asJSON(c)
	}
}

// get returns the value of a key of a mapping, nil if there is none.
func get(n *yaml.Node, key string) *yaml.Node {
	n = resolve(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return resolve(n.Content[i+1])
		}
	}
	return nil
}

// resolve follows an alias to its anchor.
func resolve(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// text returns a scalar's text, "" for anything else.
func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

func scalar(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// set gives a key of a mapping a value.
func set(n *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = value
			return
		}
	}
	n.Content = append(n.Content, scalar(key), value)
}

// child returns the mapping or sequence at a key, and makes it where there is
// none. An alias is refused: what is added would be added to all who share it.
func child(n *yaml.Node, key string, kind yaml.Kind) (*yaml.Node, error) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != key {
			continue
		}
		switch c := n.Content[i+1]; {
		case c.Kind == yaml.AliasNode:
			return nil, fmt.Errorf("%s is an alias; write it out", key)
		case c.Kind == kind:
			return c, nil
		case c.Tag == "!!null":
			*c = yaml.Node{Kind: kind}
			return c, nil
		default:
			return nil, fmt.Errorf("%s is of the wrong type", key)
		}
	}
	c := &yaml.Node{Kind: kind}
	n.Content = append(n.Content, scalar(key), c)
	return c, nil
}

// upsert puts an item of a list in the place of the one of the same name, or
// else at a position.
func upsert(list, item *yaml.Node, at int) {
	name := text(get(item, "name"))
	for i, have := range list.Content {
		if text(get(have, "name")) == name {
			list.Content[i] = item
			return
		}
	}
	list.Content = append(list.Content[:at:at], append([]*yaml.Node{item}, list.Content[at:]...)...)
}
