package enginetest

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:embed cases/*.txt
var caseFiles embed.FS

// Case is one case of the table: the state of the model after each of its steps,
// and what packets then must meet.
type Case struct {
	Name string
	File string
	Line int
	Rule string // where the rule is from
	// Config are the settings of the planner, as words.
	Config []string
	Steps  []Step
}

// Step is one update of the model and what holds after it.
type Step struct {
	// Objects are the lines that put or delete objects.
	Objects []Line
	Probes  []Probe
}

// Line is a directive of a case with its words.
type Line struct {
	Number    int
	Directive string
	Head      []string // the words before the colon
	Tail      []string // those after it
}

// Probe is connections from a client to a destination, and what is expected.
type Probe struct {
	Line   int
	Text   string
	Kind   string // "probe", "open" or "again"
	Client string
	To     string
	// Protocols and Families are what it is done with.
	Protocols []string
	Families  []int
	// Expected are who answers, with their weights; or refused, or silence.
	Expected []Answer
	// From is the source address that the answering one must see: "kept",
	// "node", or empty if it does not matter.
	From string
	// Share tells that the weights are checked.
	Share bool
	// Stay and Move name a memory of who answered: the same must answer, or
	// another.
	Stay, Move string
	// Eventually tells that all must answer some time, with pauses between.
	Eventually bool
	// Except are what engines do otherwise, by the beginning of their names.
	Except []Exception
}

// Answer is who answers, on which port.
type Answer struct {
	By     string // such as "b:8080"
	Weight int
}

// Exception is an engine that does something else, for a reason.
type Exception struct {
	Engine   string
	Expected []Answer
	From     string
	Stay     string
	Because  string
}

// The outcomes of a connection that nobody answers.
const (
	Refused = "refused"
	Silence = "silence"
)

// Cases returns the table, ordered by file.
func Cases() ([]Case, error) {
	names, err := fs.Glob(caseFiles, "cases/*.txt")
	if err != nil {
		return nil, err
	}
	var all []Case
	for _, name := range names {
		data, err := caseFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		cases, err := parseCases(name, string(data))
		if err != nil {
			return nil, err
		}
		all = append(all, cases...)
	}
	return all, nil
}

// parseCases reads a file of cases.
func parseCases(file, text string) ([]Case, error) {
	var all []Case
	number := 0
	for raw := range strings.Lines(text) {
		number++
		raw, _, _ = strings.Cut(raw, "#")
		raw = strings.TrimSpace(raw)
		if raw == "" {
			continue
		}
		directive, rest, _ := strings.Cut(raw, " ")
		if directive == "case" {
			all = append(all, Case{Name: rest, File: file, Line: number, Steps: make([]Step, 1)})
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("%s:%d: %s before the first case", file, number, directive)
		}
		if err := all[len(all)-1].line(number, directive, strings.TrimSpace(rest)); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, number, err)
		}
	}
	return all, nil
}

// line adds a line to the case.
func (c *Case) line(number int, directive, rest string) error {
	step := &c.Steps[len(c.Steps)-1]
	line := Line{Number: number, Directive: directive}
	head, tail, _ := strings.Cut(rest+" ", ": ")
	line.Head, line.Tail = strings.Fields(head), strings.Fields(tail)
	switch directive {
	case "rule":
		c.Rule = rest
	case "config":
		c.Config = append(c.Config, line.Head...)
	case "then":
		c.Steps = append(c.Steps, Step{})
	case "service", "endpoints", "split", "pod", "zone", "delete", "problem":
		step.Objects = append(step.Objects, line)
	case "probe", "open", "again":
		p, err := parseProbe(line)
		if err != nil {
			return err
		}
		p.Text = directive + " " + rest
		step.Probes = append(step.Probes, p)
	case "except":
		if len(step.Probes) == 0 || len(line.Head) != 1 {
			return fmt.Errorf("except needs a probe before it, and one engine")
		}
		return step.Probes[len(step.Probes)-1].except(line)
	default:
		return fmt.Errorf("unknown directive %q", directive)
	}
	return nil
}

// parseProbe reads "CLIENT DESTINATION [tcp|udp|sctp|4|6]...: ANSWER... [OPTION]...".
func parseProbe(l Line) (Probe, error) {
	p := Probe{Line: l.Number, Kind: l.Directive}
	if len(l.Head) < 2 || len(l.Tail) == 0 {
		return p, fmt.Errorf("%s needs a client, a destination, a colon and an outcome", l.Directive)
	}
	p.Client, p.To = l.Head[0], l.Head[1]
	for _, word := range l.Head[2:] {
		switch word {
		case "tcp", "udp", "sctp":
			p.Protocols = append(p.Protocols, word)
		case "4", "6":
			p.Families = append(p.Families, int(word[0]-'0'))
		default:
			return p, fmt.Errorf("unknown word %q before the colon", word)
		}
	}
	if p.Protocols == nil {
		p.Protocols = []string{"tcp", "udp", "sctp"}
	}
	if p.Families == nil {
		p.Families = []int{4, 6}
	}
	for _, word := range l.Tail {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "from":
			p.From = value
		case "stay":
			p.Stay = value
		case "move":
			p.Move = value
		case "eventually":
			p.Eventually = true
		default:
			a, err := parseAnswer(word)
			if err != nil {
				return p, err
			}
			p.Share = p.Share || a.Weight > 0
			p.Expected = append(p.Expected, a)
		}
	}
	if len(p.Expected) == 0 {
		return p, fmt.Errorf("no outcome")
	}
	return p, nil
}

// parseAnswer reads "b", "b:8081" or, with a weight, "b=3".
func parseAnswer(word string) (Answer, error) {
	var a Answer
	name, weight, weighted := strings.Cut(word, "=")
	if weighted {
		if _, err := fmt.Sscanf(weight, "%d", &a.Weight); err != nil || a.Weight < 1 {
			return a, fmt.Errorf("%q is no weight", weight)
		}
	}
	if name != Refused && name != Silence && !strings.Contains(name, ":") {
		name += ":8080"
	}
	host, _, _ := strings.Cut(name, ":")
	if name != Refused && name != Silence && !slices.Contains(hostNames, host) {
		return a, fmt.Errorf("nobody is called %q", host)
	}
	a.By = name
	return a, nil
}

// except reads "ENGINE: ANSWER... [from=...] [stay=...] because TEXT".
func (p *Probe) except(l Line) error {
	e := Exception{Engine: l.Head[0], From: p.From, Stay: p.Stay}
	for i, word := range l.Tail {
		if word == "because" {
			e.Because = strings.Join(l.Tail[i+1:], " ")
			break
		}
		if from, ok := strings.CutPrefix(word, "from="); ok {
			e.From = from
			continue
		}
		if stay, ok := strings.CutPrefix(word, "stay="); ok {
			e.Stay = stay
			continue
		}
		a, err := parseAnswer(word)
		if err != nil {
			return err
		}
		e.Expected = append(e.Expected, a)
	}
	if e.Because == "" {
		return fmt.Errorf("an exception needs a reason")
	}
	if e.Expected == nil {
		e.Expected = p.Expected
	}
	p.Except = append(p.Except, e)
	return nil
}

// of returns what the engine is expected to do.
func (p Probe) of(engine string) Probe {
	for _, e := range p.Except {
		if strings.HasPrefix(engine, e.Engine) {
			p.Expected, p.From, p.Stay, p.Eventually = e.Expected, e.From, e.Stay, false
		}
	}
	return p
}
