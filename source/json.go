package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// jsonReader makes the nodes of JSON, so that it reports lines as YAML does.
type jsonReader struct {
	text []byte
	dec  *json.Decoder
	at   int // up to where lines were counted
	line int
}

func parseJSON(text []byte) ([]*yaml.Node, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	r := &jsonReader{text: text, dec: dec, line: 1}
	var nodes []*yaml.Node
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nodes, nil
		}
		if err != nil {
			return nil, r.fail(err)
		}
		n, err := r.value(tok, 0)
		if err != nil {
			return nil, r.fail(err)
		}
		nodes = append(nodes, n)
	}
}

func (r *jsonReader) fail(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("ends in the middle of a value")
	}
	return &syntaxError{line: r.here(), msg: "not JSON: " + err.Error()}
}

// here returns the line of what was read last.
func (r *jsonReader) here() int {
	to := min(int(r.dec.InputOffset()), len(r.text))
	if to > r.at {
		r.line += bytes.Count(r.text[r.at:to], []byte("\n"))
		r.at = to
	}
	return r.line
}

func (r *jsonReader) value(tok json.Token, depth int) (*yaml.Node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: r.here()}
	switch v := tok.(type) {
	case json.Delim:
		n.Kind = yaml.MappingNode
		if v == '[' {
			n.Kind = yaml.SequenceNode
		}
		for r.dec.More() {
			tok, err := r.dec.Token()
			if err != nil {
				return nil, err
			}
			item, err := r.value(tok, depth+1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		_, err := r.dec.Token() // the closing delimiter
		return n, err
	case string:
		n.Tag, n.Value, n.Style = "!!str", v, yaml.DoubleQuotedStyle
	case json.Number:
		n.Tag, n.Value = "!!int", v.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case bool:
		n.Tag, n.Value = "!!bool", strconv.FormatBool(v)
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n, nil
}

// span says which node a value of the JSON was made of.
type span struct {
	start int
	node  *yaml.Node
}

// jsonWriter turns a node into JSON and remembers where each value came from.
type jsonWriter struct {
	buf   bytes.Buffer
	spans []span // by start
}

// nodeError is a value that JSON or the API has no room for.
type nodeError struct {
	node *yaml.Node
	msg  string
}

func (e *nodeError) Error() string { return e.msg }

func (w *jsonWriter) write(n *yaml.Node, depth int) error {
	if depth > maxDepth {
		return &nodeError{n, fmt.Sprintf("nested deeper than %d levels", maxDepth)}
	}
	if len(w.spans) >= maxNodes {
		return &nodeError{n, fmt.Sprintf("more than %d values, aliases counted as what they stand for", maxNodes)}
	}
	if n.Kind == yaml.AliasNode {
		return w.write(n.Alias, depth+1)
	}
	w.spans = append(w.spans, span{w.buf.Len(), n})
	switch n.Kind {
	case yaml.MappingNode:
		return w.mapping(n, depth)
	case yaml.SequenceNode:
		w.buf.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				w.buf.WriteByte(',')
			}
			if err := w.write(item, depth+1); err != nil {
				return err
			}
		}
		w.buf.WriteByte(']')
		return nil
	}
	return w.scalar(n)
}

func (w *jsonWriter) mapping(n *yaml.Node, depth int) error {
	w.buf.WriteByte('{')
	seen := make(map[string]bool, len(n.Content)/2)
	if err := w.entries(n, seen, false, depth); err != nil {
		return err
	}
	w.buf.WriteByte('}')
	return nil
}

// entries writes a mapping's own entries and then those that it merges in by
// the key "<<", as far as it does not have them already.
func (w *jsonWriter) entries(n *yaml.Node, seen map[string]bool, merged bool, depth int) error {
	if depth > maxDepth {
		return &nodeError{n, fmt.Sprintf("nested deeper than %d levels", maxDepth)}
	}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			return &nodeError{n.Content[i], "a key must be a string"}
		}
		if key.ShortTag() == "!!merge" {
			merges = append(merges, value)
			continue
		}
		if seen[key.Value] {
			if merged {
				continue
			}
			return &nodeError{n.Content[i], fmt.Sprintf("the key %q is there twice", key.Value)}
		}
		if len(seen) > 0 {
			w.buf.WriteByte(',')
		}
		seen[key.Value] = true
		w.string(key.Value)
		w.buf.WriteByte(':')
		if err := w.write(value, depth+1); err != nil {
			return err
		}
	}
	for _, m := range merges {
		m = resolve(m)
		from := []*yaml.Node{m}
		if m.Kind == yaml.SequenceNode {
			from = m.Content
		}
		for _, f := range from {
			if f = resolve(f); f.Kind != yaml.MappingNode {
				return &nodeError{m, "<< must name a mapping"}
			}
			// Counted, or a chain of merges would be free.
			w.spans = append(w.spans, span{w.buf.Len(), f})
			if len(w.spans) >= maxNodes {
				return &nodeError{m, fmt.Sprintf("more than %d values, aliases counted as what they stand for", maxNodes)}
			}
			if err := w.entries(f, seen, true, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *jsonWriter) string(s string) {
	b, err := json.Marshal(s)
	if err != nil { // strings always marshal
		b = []byte(`""`)
	}
	w.buf.Write(b)
}

// scalar writes what kubectl makes of a scalar, which reads YAML 1.1: a bare
// yes, on, no or off is a boolean too.
func (w *jsonWriter) scalar(n *yaml.Node) error {
	plain := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	switch n.ShortTag() {
	case "!!null":
		w.buf.WriteString("null")
	case "!!bool":
		w.buf.WriteString(strconv.FormatBool(strings.EqualFold(n.Value, "true")))
	case "!!int", "!!float":
		return w.number(n)
	case "!!str", "!!timestamp":
		switch {
		case !plain || n.Style&yaml.TaggedStyle != 0:
		case slices.Contains(yamlTrue, n.Value):
			w.buf.WriteString("true")
			return nil
		case slices.Contains(yamlFalse, n.Value):
			w.buf.WriteString("false")
			return nil
		}
		w.string(n.Value)
	default:
		return &nodeError{n, "a value of type " + n.ShortTag() + " has no place in an API object"}
	}
	return nil
}

// The booleans of YAML 1.1 that are strings in YAML 1.2.
var (
	yamlTrue  = []string{"y", "Y", "yes", "Yes", "YES", "on", "On", "ON"}
	yamlFalse = []string{"n", "N", "no", "No", "NO", "off", "Off", "OFF"}
)

func (w *jsonWriter) number(n *yaml.Node) error {
	if i, err := strconv.ParseInt(n.Value, 10, 64); err == nil && strconv.FormatInt(i, 10) == n.Value {
		w.buf.WriteString(n.Value) // as nearly all are, and the decoder is slow
		return nil
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return &nodeError{n, fmt.Sprintf("%s is not a number", show(n.Value))}
	}
	if f, ok := v.(float64); ok {
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return &nodeError{n, fmt.Sprintf("%s has no place in an API object", show(n.Value))}
		}
		if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			v = int64(f)
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return &nodeError{n, err.Error()}
	}
	w.buf.Write(b)
	return nil
}

// nodeAt returns the node that the value before an offset of the JSON was made
// of.
func (w *jsonWriter) nodeAt(offset int64) *yaml.Node {
	var found *yaml.Node
	for _, s := range w.spans {
		if int64(s.start) >= offset {
			break
		}
		found = s.node
	}
	return found
}
