package source

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/model"
)

// FieldError says what is wrong with one field of an object.
type FieldError struct {
	Field    string // a path such as spec.ports[0].port
	Expected string // what the field must be, such as "a number from 1 to 65535"
	Found    string // what it is, as text; empty if it is missing
	// Warning marks a mistake that leaves the object usable as it is; a
	// manifest with warnings alone is in force.
	Warning bool
}

// Error returns "spec.ports[0].port: must be a number from 1 to 65535, found 0".
func (e FieldError) Error() string {
	var b strings.Builder
	if e.Field != "" {
		b.WriteString(e.Field)
		b.WriteString(": ")
	}
	switch {
	case e.Found == "":
		fmt.Fprintf(&b, "is missing, must be %s", e.Expected)
	case e.Expected == "":
		b.WriteString(e.Found)
	default:
		fmt.Fprintf(&b, "must be %s, found %s", e.Expected, e.Found)
	}
	return b.String()
}

// Reason tells the sorts of problems apart. It is the reason of the condition
// on the object.
type Reason string

// The reasons of problems.
const (
	ReasonParse     Reason = "ParseError"      // not YAML or JSON, or not an API object
	ReasonInvalid   Reason = "Invalid"         // a field is wrong
	ReasonIgnored   Reason = "UnknownKind"     // nothing of sluice's; left alone
	ReasonVersion   Reason = "UnknownVersion"  // a known kind in a version that is not
	ReasonTooLarge  Reason = "TooLarge"        // above a limit
	ReasonUnread    Reason = "Unreadable"      // the file could not be read
	ReasonDuplicate Reason = "Duplicate"       // defined a second time
	ReasonConflict  Reason = "AddressConflict" // an address or port that another Service has
)

// Problem is something wrong with a document, a file or an object. It is an
// error whose text is complete by itself.
type Problem struct {
	File   string // relative to the directory; empty if it came from no file
	Line   int    // counted from 1; 0 if unknown
	Object string // "Service default/web", as far as it could be read
	// Key names the object, and HasKey says that it does. Without it the
	// document has no usable name, or is of no known kind.
	Key    model.Key
	HasKey bool
	Reason Reason
	Err    error // often a [FieldError]
	// Warning marks a problem that keeps nothing out of force.
	Warning bool
}

// Error returns "web.yaml:12: Service default/web: spec.ports[0].port: must be
// a number from 1 to 65535, found 0".
func (p Problem) Error() string {
	var b strings.Builder
	switch {
	case p.File != "" && p.Line > 0:
		fmt.Fprintf(&b, "%s:%d: ", p.File, p.Line)
	case p.File != "":
		fmt.Fprintf(&b, "%s: ", p.File)
	case p.Line > 0:
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Object != "" {
		b.WriteString(p.Object)
		b.WriteString(": ")
	}
	b.WriteString(p.Err.Error())
	return b.String()
}

// Unwrap returns what is wrong, without the place.
func (p Problem) Unwrap() error { return p.Err }

// Where returns "web.yaml:12", or the file alone where the line is unknown.
func (p Problem) Where() string {
	if p.Line > 0 {
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return p.File
}

// ConditionAccepted is the type of the condition that says what is wrong with
// an object as it was read.
const ConditionAccepted = "Accepted"

// Conditions says in one condition what is wrong with an object; it is empty if
// nothing is. Problems that keep something out of force come before mere
// warnings, with which the condition is true.
func Conditions(problems []Problem) []metav1.Condition {
	if len(problems) == 0 {
		return nil
	}
	problems = slices.Clone(problems)
	slices.SortStableFunc(problems, func(a, b Problem) int {
		switch {
		case a.Warning == b.Warning:
			return 0
		case b.Warning:
			return -1
		}
		return 1
	})
	errs := make([]error, 0, maxToldProblems)
	for _, p := range problems[:min(len(problems), maxToldProblems)] {
		errs = append(errs, p)
	}
	c := metav1.Condition{Type: ConditionAccepted, Status: metav1.ConditionFalse, Reason: string(problems[0].Reason), Message: errors.Join(errs...).Error()}
	if problems[0].Warning {
		c.Status = metav1.ConditionTrue
	}
	return []metav1.Condition{c}
}

// maxToldProblems is how many problems a condition tells.
const maxToldProblems = 5

// findings collects what a conversion finds wrong.
type findings struct {
	errs   []FieldError
	labels []string // that are kept of Services, see [Kind.Convert]
}

func (f *findings) bad(field, expected string, found any) {
	f.errs = append(f.errs, FieldError{Field: field, Expected: expected, Found: show(found)})
}

func (f *findings) missing(field, expected string) {
	f.errs = append(f.errs, FieldError{Field: field, Expected: expected})
}

func (f *findings) warn(field, expected string, found any) {
	f.errs = append(f.errs, FieldError{Field: field, Expected: expected, Found: show(found), Warning: true})
}

// show prints a value for a message; long ones are cut, because manifests are
// outside input and messages end up in statuses.
func show(v any) string {
	s, ok := v.(string)
	if !ok {
		return fmt.Sprint(v)
	}
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return fmt.Sprintf("%q", s)
}
