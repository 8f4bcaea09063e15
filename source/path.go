package source

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// pathOf returns the path of target under root, such as spec.ports[0].port.
func pathOf(root, target *yaml.Node) (string, bool) {
	return findPath(root, target, "", 0)
}

func findPath(n, target *yaml.Node, at string, depth int) (string, bool) {
	if n == target {
		return at, true
	}
	if depth > maxDepth {
		return "", false
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i] == target {
				return join(at, n.Content[i].Value), true
			}
			if p, ok := findPath(n.Content[i+1], target, join(at, n.Content[i].Value), depth+1); ok {
				return p, true
			}
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			if p, ok := findPath(item, target, at+"["+strconv.Itoa(i)+"]", depth+1); ok {
				return p, true
			}
		}
	}
	return "", false
}

func join(at, key string) string {
	switch {
	case at == "":
		return key
	case strings.ContainsAny(key, "./"):
		return at + "[" + key + "]"
	}
	return at + "." + key
}

// lineOf returns the line of the field at a path, or of the nearest thing
// around it that is there.
func lineOf(root *yaml.Node, path string) int {
	n, line := root, root.Line
	for path != "" {
		var step string
		step, path = nextStep(path)
		if n = resolve(n); n == nil {
			return line
		}
		var next *yaml.Node
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == step {
					next, line = n.Content[i+1], n.Content[i].Line
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
				next = n.Content[i]
				line = next.Line
			}
		}
		if next == nil {
			return line
		}
		n = next
	}
	return line
}

// nextStep cuts the first step off a path: "ports[0].port" gives "ports" and
// "[0].port", that gives "0" and "port".
func nextStep(path string) (step, rest string) {
	if path[0] == '[' {
		end := strings.IndexByte(path, ']')
		if end < 0 {
			return path[1:], ""
		}
		return path[1:end], strings.TrimPrefix(path[end+1:], ".")
	}
	end := strings.IndexAny(path, ".[")
	switch {
	case end < 0:
		return path, ""
	case path[end] == '[':
		return path[:end], path[end:]
	}
	return path[:end], path[end+1:]
}
