package route

import (
	"strings"
	"time"
)

// Host holds the routes of one host name in one space of names. A listener
// looks its hosts up in the space that it names, so that one host's routes
// change without touching another's.
type Host struct {
	Space string
	// Name is "a.example.com", "*.example.com" for what is below, or "*" for
	// all that nothing else matches. Lower case, without a port.
	Name string
	// Rules are tried in order, the first match wins; no match is 404.
	Rules []Rule
}

// Kind implements [Resource].
func (*Host) Kind() Kind { return KindHost }

// ID implements [Resource].
func (h *Host) ID() string { return h.Space + "/" + h.Name }

// SplitHostID takes the ID of a [Host] apart. A space may have slashes in its
// name, a host has none.
func SplitHostID(id string) (space, name string) {
	if i := strings.LastIndexByte(id, '/'); i >= 0 {
		return id[:i], id[i+1:]
	}
	return "", id
}

// Rule sends the requests that match it somewhere. One of Backends, Redirect
// and Respond is set.
type Rule struct {
	Name  string // stable, unique in the host
	Match Match

	Backends []Backend
	Redirect *Redirect
	Respond  *Response

	Request  HeaderEdits // on the way to the backend
	Response HeaderEdits // on the way back
	Rewrite  *Rewrite
	Timeout  time.Duration // of the whole exchange; 0: none
}

// Match says which requests a rule takes; all that is set must hold.
type Match struct {
	Path    PathMatch
	Method  string // empty: any
	Headers []ValueMatch
	Query   []ValueMatch
}

// PathKind is how a path is compared.
type PathKind string

// The ways to compare a path.
const (
	PathExact  PathKind = "Exact"
	PathPrefix PathKind = "Prefix" // by whole elements: /a matches /a and /a/b, not /ab
	PathString PathKind = "String" // by characters: /a matches /ab (VirtualService's prefix)
	PathRegex  PathKind = "Regex"  // RE2, of the whole path
)

// PathMatch compares the path without its query. The zero value matches all.
type PathMatch struct {
	Kind       PathKind
	Value      string
	IgnoreCase bool
}

// ValueMatch compares a header or a query parameter.
type ValueMatch struct {
	Name   string
	Kind   ValueKind
	Value  string
	Invert bool
}

// ValueKind is how a value is compared.
type ValueKind string

// The ways to compare a value.
const (
	ValueExact   ValueKind = "Exact"
	ValuePrefix  ValueKind = "Prefix"
	ValueRegex   ValueKind = "Regex"
	ValuePresent ValueKind = "Present"
)

// Backend is a share of a rule's requests.
type Backend struct {
	Cluster  string // empty: this share is answered with 500
	Weight   uint32
	Request  HeaderEdits
	Response HeaderEdits
}

// Redirect answers with a redirection. Empty fields keep what the request has.
type Redirect struct {
	Scheme     string
	Host       string
	Port       uint16
	Path       string // replaces the whole path
	PathPrefix string // replaces what the rule's prefix matched
	HasPrefix  bool   // PathPrefix is meant, though it may be empty
	Code       int    // 301, 302, 303, 307 or 308
}

// Response answers by itself.
type Response struct {
	Code int
	Body string
}

// Rewrite changes the request before it is sent on.
type Rewrite struct {
	Host       string
	Path       string
	PathPrefix string
	HasPrefix  bool
}

// HeaderEdits change headers: first Remove, then Set, then Add.
type HeaderEdits struct {
	Set    []Header
	Add    []Header
	Remove []string
}

// Empty reports whether nothing is edited.
func (e *HeaderEdits) Empty() bool { return len(e.Set) == 0 && len(e.Add) == 0 && len(e.Remove) == 0 }

// Header is a name and its value.
type Header struct{ Name, Value string }
