package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Limits on one document, which keep hostile input from costing more than its
// size. API objects are far below them.
const (
	maxDepth = 100     // of nesting, also through aliases
	maxNodes = 1 << 18 // values, each use of an alias counted again
)

// Document is one document of a stream of YAML or JSON.
type Document struct {
	Text []byte
	Line int // of the stream at which Text begins, counted from 1
}

// Split cuts a stream into its documents, at every line that begins with the
// marker "---". A line that does so ends a document whatever is open (YAML 1.2
// §9.1.2), so that no parser is needed.
func Split(stream []byte) []Document {
	var out []Document
	start, startLine, line := 0, 1, 1
	add := func(end int) {
		if text := stream[start:end]; hasContent(text) {
			out = append(out, Document{Text: text, Line: startLine})
		}
	}
	for at := 0; at < len(stream); line++ {
		next := len(stream)
		if n := bytes.IndexByte(stream[at:], '\n'); n >= 0 {
			next = at + n + 1
		}
		if isMarker(stream[at:next]) {
			add(at)
			start, startLine = at, line
		}
		at = next
	}
	add(len(stream))
	return out
}

func isMarker(line []byte) bool {
	return bytes.HasPrefix(line, []byte("---")) && (len(line) == 3 || bytes.IndexByte([]byte(" \t\r\n"), line[3]) >= 0)
}

// hasContent reports whether a document is more than markers and comments.
func hasContent(text []byte) bool {
	for line := range bytes.Lines(text) {
		if isMarker(line) {
			line = line[3:]
		}
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("...")) {
			return true
		}
	}
	return false
}

// syntaxError is a document that does not parse.
type syntaxError struct {
	line int // in the document, counted from 1; 0 if unknown
	msg  string
}

func (e *syntaxError) Error() string { return e.msg }

// parse returns the roots of the values in a document's text: one, or several
// where JSON values follow each other.
func parse(text []byte) ([]*yaml.Node, error) {
	trimmed := bytes.TrimLeft(text, " \t\r\n\ufeff")
	if len(trimmed) > 0 && trimmed[0] == '{' {
		nodes, jsonErr := parseJSON(text)
		if jsonErr == nil {
			return nodes, nil
		}
		// A flow mapping of YAML begins with a brace too.
		if nodes, err := parseYAML(text); err == nil {
			return nodes, nil
		}
		return nil, jsonErr
	}
	return parseYAML(text)
}

var (
	yamlLine   = regexp.MustCompile(`^yaml: line (\d+): `)
	yamlPrefix = regexp.MustCompile(`^yaml: (unmarshal errors:\s*)?`)
)

func parseYAML(text []byte) (nodes []*yaml.Node, err error) {
	// The library panics on some malformed input instead of returning an
	// error; a manifest must not take the process down.
	defer func() {
		if r := recover(); r != nil {
			nodes, err = nil, &syntaxError{msg: fmt.Sprintf("not YAML: %v", r)}
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return nodes, nil
		}
		if err != nil {
			e := &syntaxError{msg: err.Error()}
			if m := yamlLine.FindStringSubmatch(e.msg); m != nil {
				e.line, _ = strconv.Atoi(m[1])
				e.msg = e.msg[len(m[0]):]
			}
			e.msg = "not YAML: " + yamlPrefix.ReplaceAllString(e.msg, "")
			if strings.HasSuffix(e.msg, "cannot start any token") && indentedByTab(text, e.line) {
				e.msg += "; indent with spaces, not tabs"
			}
			return nil, e
		}
		if len(doc.Content) > 0 && !isNull(doc.Content[0]) {
			nodes = append(nodes, doc.Content[0])
		}
	}
}

// indentedByTab reports whether a line, counted from 1, begins with a tab.
func indentedByTab(text []byte, line int) bool {
	n := 0
	for l := range bytes.Lines(text) {
		if n++; n == line {
			return bytes.HasPrefix(bytes.TrimLeft(l, " "), []byte("\t"))
		}
	}
	return false
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode && i < maxDepth; i++ {
		n = n.Alias
	}
	return n
}

// child returns the value of a mapping's key, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
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

// text returns the string at a path of keys, or "".
func text(n *yaml.Node, keys ...string) string {
	for _, k := range keys {
		n = child(n, k)
	}
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}
