package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"
)

// Print writes a table as kubectl would: format is "", "wide", "json", "yaml"
// or "name".
func Print(w io.Writer, t Table, resource, format string) error {
	switch format {
	case "", "wide":
		return printTable(w, t, format == "wide")
	case "name":
		for _, r := range t.Rows {
			if _, err := fmt.Fprintf(w, "%s/%s\n", kindOf(r, resource), r.Name); err != nil {
				return err
			}
		}
		return nil
	case "json", "yaml":
		return printObjects(w, t, format)
	}
	return fmt.Errorf("-o %q: expected wide, json, yaml or name", format)
}

// kindOf returns the kind of a row's object in lower case, or else as it was
// asked for.
func kindOf(r Row, resource string) string {
	object, _ := r.Object.(map[string]any)
	if kind, _ := object["kind"].(string); kind != "" {
		return strings.ToLower(kind)
	}
	return resource
}

// WithoutNamespace returns the table without the column of namespaces, which
// says nothing where all rows are of one.
func WithoutNamespace(t Table) Table {
	if len(t.Columns) == 0 || t.Columns[0].Name != "NAMESPACE" {
		return t
	}
	t.Columns = t.Columns[1:]
	rows := make([]Row, len(t.Rows))
	for i, r := range t.Rows {
		r.Cells = r.Cells[min(1, len(r.Cells)):]
		rows[i] = r
	}
	t.Rows = rows
	return t
}

// oneLine keeps a cell in its row.
var oneLine = strings.NewReplacer("\n", "; ", "\t", " ")

func printTable(w io.Writer, t Table, wide bool) error {
	tw := tabwriter.NewWriter(w, 6, 4, 3, ' ', 0)
	line := func(cells func(i int) string) {
		var shown []string
		for i, c := range t.Columns {
			if wide || !c.Wide {
				shown = append(shown, cells(i))
			}
		}
		// A failed write shows at Flush.
		_, _ = fmt.Fprintln(tw, strings.TrimRight(strings.Join(shown, "\t"), "\t "))
	}
	line(func(i int) string { return t.Columns[i].Name })
	for _, r := range t.Rows {
		line(func(i int) string {
			if i >= len(r.Cells) || r.Cells[i] == "" {
				return "<none>"
			}
			return oneLine.Replace(r.Cells[i])
		})
	}
	return tw.Flush()
}

func printObjects(w io.Writer, t Table, format string) error {
	var out any
	items := make([]any, len(t.Rows))
	for i, r := range t.Rows {
		items[i] = r.Object
	}
	if out = map[string]any{"apiVersion": "v1", "kind": "List", "items": items}; t.One && len(items) == 1 {
		out = items[0]
	}
	var b []byte
	var err error
	if format == "json" {
		b, err = json.MarshalIndent(out, "", "    ")
		b = append(b, '\n')
	} else {
		b, err = yaml.Marshal(out)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Select keeps the rows of a namespace (empty: of all) and, if names are given,
// only those, in the table's order. A name that is not there is an error.
func Select(t Table, namespace string, names []string) (Table, error) {
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = false
	}
	var rows []Row
	for _, r := range t.Rows {
		if namespace != "" && r.Namespace != "" && r.Namespace != namespace {
			continue
		}
		if _, ok := wanted[r.Name]; len(names) > 0 && !ok {
			continue
		}
		wanted[r.Name] = true
		rows = append(rows, r)
	}
	t.Rows, t.One = rows, len(names) == 1
	for _, n := range names {
		if !wanted[n] {
			return t, fmt.Errorf("%q not found", n)
		}
	}
	return t, nil
}
