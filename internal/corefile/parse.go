package corefile

import (
	"errors"
	"fmt"
	"strings"
)

// block is one server block: the zones that it is for, and what it does.
type block struct {
	keys       []string
	directives []directive
	line       int
}

// directive is a line, with the lines between braces that follow it.
type directive struct {
	name string
	args []string
	body []directive
	line int
}

// errSyntax indicates that a text is no Corefile.
var errSyntax = errors.New("not a Corefile")

func syntaxError(line int, format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", errSyntax, line, fmt.Sprintf(format, args...))
}

// token is a word; quoted ones are never braces.
type token struct {
	text   string
	line   int
	quoted bool
}

func (t token) is(brace string) bool { return t.text == brace && !t.quoted }

// lex splits a text into words, as Caddy does: by spaces, with quotes around words
// that have some, and with what follows a # at the start of a word as a comment.
func lex(text string) ([]token, error) {
	var tokens []token
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, "\r")
		for i := 0; i < len(line); {
			switch line[i] {
			case ' ', '\t':
				i++
			case '#':
				i = len(line)
			case '"':
				word, length, ok := unquote(line[i+1:])
				if !ok {
					return nil, syntaxError(n+1, "a quote has no end")
				}
				tokens = append(tokens, token{word, n + 1, true})
				i += 1 + length
			default:
				end := i
				for end < len(line) && line[end] != ' ' && line[end] != '\t' {
					end++
				}
				tokens = append(tokens, token{line[i:end], n + 1, false})
				i = end
			}
		}
	}
	return tokens, nil
}

// unquote reads up to the quote that ends a word, and returns how much that was.
func unquote(s string) (word string, length int, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
			b.WriteByte('"')
		case s[i] == '"':
			return b.String(), i + 1, true
		default:
			b.WriteByte(s[i])
		}
	}
	return "", 0, false
}

// parser reads blocks from words.
type parser struct {
	tokens   []token
	snippets map[string][]directive
}

const (
	maxDepth      = 8     // of braces
	maxDirectives = 10000 // with all imports
)

// parse reads a Corefile.
func parse(text string) ([]block, error) {
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens, snippets: map[string][]directive{}}
	var blocks []block
	for len(p.tokens) > 0 {
		b, err := p.block()
		if err != nil {
			return nil, err
		}
		if len(b.keys) == 1 && strings.HasPrefix(b.keys[0], "(") && strings.HasSuffix(b.keys[0], ")") {
			p.snippets[strings.Trim(b.keys[0], "()")] = b.directives
			continue
		}
		blocks = append(blocks, b)
	}
	total := 0
	for i := range blocks {
		var err error
		if blocks[i].directives, err = p.expand(blocks[i].directives, 0, &total); err != nil {
			return nil, err
		}
	}
	return blocks, nil
}

// block reads the zones and what is between the braces after them. Zones may go on
// in the next line after a comma.
func (p *parser) block() (block, error) {
	b := block{line: p.tokens[0].line}
	line, more := b.line, true
	for len(p.tokens) > 0 && !p.tokens[0].is("{") {
		t := p.tokens[0]
		if t.is("}") || t.line != line && !more {
			return b, syntaxError(t.line, "expected a brace after the zones of line %d, found %q", b.line, t.text)
		}
		line, more = t.line, strings.HasSuffix(t.text, ",")
		for key := range strings.SplitSeq(t.text, ",") {
			if key != "" {
				b.keys = append(b.keys, key)
			}
		}
		p.tokens = p.tokens[1:]
	}
	if len(p.tokens) == 0 || len(b.keys) == 0 {
		return b, syntaxError(line, "expected zones and a brace")
	}
	var err error
	b.directives, err = p.body(0)
	return b, err
}

// body reads lines between braces.
func (p *parser) body(depth int) ([]directive, error) {
	open := p.tokens[0]
	p.tokens = p.tokens[1:]
	if depth == maxDepth {
		return nil, syntaxError(open.line, "more than %d braces in each other", maxDepth)
	}
	var list []directive
	for len(p.tokens) > 0 {
		t := p.tokens[0]
		if t.is("}") {
			p.tokens = p.tokens[1:]
			return list, nil
		}
		if t.is("{") {
			return nil, syntaxError(t.line, "a brace opens nothing")
		}
		p.tokens = p.tokens[1:]
		d := directive{name: t.text, line: t.line}
		for len(p.tokens) > 0 && p.tokens[0].line == t.line && !p.tokens[0].is("{") && !p.tokens[0].is("}") {
			d.args = append(d.args, p.tokens[0].text)
			p.tokens = p.tokens[1:]
		}
		if len(p.tokens) > 0 && p.tokens[0].is("{") && p.tokens[0].line == t.line {
			var err error
			if d.body, err = p.body(depth + 1); err != nil {
				return nil, err
			}
		}
		list = append(list, d)
	}
	return nil, syntaxError(open.line, "a brace is not closed")
}

// expand puts snippets in the place of their imports. Other imports stay.
func (p *parser) expand(list []directive, depth int, total *int) ([]directive, error) {
	var out []directive
	for _, d := range list {
		if *total++; *total > maxDirectives || depth > maxDepth {
			return nil, syntaxError(d.line, "snippets import each other, or too much")
		}
		snippet, ok := []directive(nil), false
		if d.name == "import" {
			if len(d.args) != 1 {
				return nil, syntaxError(d.line, "expected one snippet or file after import, found %q", d.args)
			}
			snippet, ok = p.snippets[d.args[0]]
		}
		if !ok {
			out = append(out, d)
			continue
		}
		inner, err := p.expand(snippet, depth+1, total)
		if err != nil {
			return nil, err
		}
		out = append(out, inner...)
	}
	return out, nil
}
