package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/sluicenet/sluice/internal/showcase"
	"github.com/sluicenet/sluice/manifests/examples"
	"github.com/sluicenet/sluice/source"
)

// object names one of the quick start's.
type object struct{ kind, name string }

func (o object) String() string { return o.kind + " " + o.name }

// at is where an object is read and written.
func (c *cluster) at(o object) (dynamic.ResourceInterface, error) {
	for _, kind := range source.Kinds() {
		if kind.Name != o.kind || kind.FilesOnly {
			continue
		}
		resource := c.objects.Resource(kind.GVR(kind.Versions[0]))
		if kind.Namespaced {
			return resource.Namespace(namespace), nil
		}
		return resource, nil
	}
	return nil, fmt.Errorf("%s is not a kind that is known", o.kind)
}

func (c *cluster) read(ctx context.Context, o object) (*unstructured.Unstructured, error) {
	at, err := c.at(o)
	if err != nil {
		return nil, err
	}
	return at.Get(ctx, o.name, metav1.GetOptions{})
}

// edit changes canary.yaml and writes the objects that differ, all at once.
func (c *cluster) edit(ctx context.Context, change func(string) string) (time.Time, error) {
	if c.canary == "" {
		b, err := fs.ReadFile(examples.Quickstart(), "canary.yaml")
		if err != nil {
			return time.Time{}, err
		}
		c.canary = string(b)
	}
	changed := change(c.canary)
	before, after := strings.Split(c.canary, "\n---\n"), strings.Split(changed, "\n---\n")
	if len(before) != len(after) || changed == c.canary {
		return time.Time{}, errors.New("the edit of canary.yaml changes nothing")
	}
	var writes []func() error
	for i, doc := range after {
		if doc == before[i] {
			continue
		}
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			return time.Time{}, fmt.Errorf("canary.yaml: %w", err)
		}
		at, err := c.at(object{o.GetKind(), o.GetName()})
		if err != nil {
			return time.Time{}, err
		}
		patch, err := json.Marshal(map[string]any{"spec": o.Object["spec"]})
		if err != nil {
			return time.Time{}, err
		}
		writes = append(writes, func() error {
			_, err := at.Patch(ctx, o.GetName(), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "sluice-e2e"})
			return err
		})
	}
	c.canary = changed
	errs := make([]error, len(writes))
	var running sync.WaitGroup
	began := time.Now()
	for i, write := range writes {
		running.Go(func() { errs[i] = write() })
	}
	running.Wait()
	return began, errors.Join(errs...)
}

// status writes a line for each object that has one.
func (c *cluster) status(ctx context.Context) error {
	c.table.Section("Status, written on the objects")
	for _, line := range []struct {
		kind  string
		names []string
		true  []string // conditions
	}{
		{"GatewayClass", []string{"sluice"}, []string{"Accepted"}},
		{"Gateway", []string{"public"}, []string{"Accepted", "Programmed"}},
		{"HTTPRoute", []string{"web", "quotes"}, []string{"Accepted", "ResolvedRefs"}},
		{"VirtualService", []string{"quotes", "orders"}, []string{"Accepted", "ResolvedRefs"}},
		{"DestinationRule", []string{"orders"}, []string{"Accepted"}},
		{"PeerAuthentication", []string{"orders"}, []string{"Accepted"}},
	} {
		if err := c.table.Run(ctx, showcase.Check{
			What: line.kind + " " + strings.Join(line.names, ", "), Expected: strings.Join(line.true, ", "),
			Count: func(ctx context.Context) (string, error) { return c.conditions(ctx, line.kind, line.names, line.true) },
		}); err != nil {
			return err
		}
	}
	return nil
}

// conditions waits a little until these are true of the objects as they are.
func (c *cluster) conditions(ctx context.Context, kind string, names, want []string) (string, error) {
	var counted []string
	err := showcase.Until(ctx, 20*time.Second, "status", func(ctx context.Context) error {
		counted = nil
		for _, name := range names {
			o := object{kind, name}
			got, err := c.read(ctx, o)
			if err != nil {
				return err
			}
			all := list(got.Object, "status", "conditions")
			for _, parent := range list(got.Object, "status", "parents") {
				all = append(all, list(parent, "conditions")...)
			}
			for _, t := range want {
				if err := isTrue(all, t, got.GetGeneration()); err != nil {
					return fmt.Errorf("%v: %w", o, err)
				}
				counted = append(counted, t)
			}
		}
		return nil
	})
	slices.Sort(counted)
	return strings.Join(slices.Compact(counted), ", "), err
}

// isTrue checks that there are conditions of a type, all true, and of this
// generation of the object.
func isTrue(conditions []any, of string, generation int64) error {
	found := false
	for _, condition := range conditions {
		b, err := json.Marshal(condition)
		if err != nil {
			return err
		}
		var c metav1.Condition
		if err := json.NewDecoder(bytes.NewReader(b)).Decode(&c); err != nil {
			return err
		}
		switch {
		case c.Type != of:
			continue
		case c.Status != metav1.ConditionTrue:
			return fmt.Errorf("%s is %s: %s: %s", of, c.Status, c.Reason, c.Message)
		case c.ObservedGeneration != generation || c.LastTransitionTime.IsZero():
			return fmt.Errorf("%s is of generation %d, not %d, since %v", of, c.ObservedGeneration, generation, c.LastTransitionTime)
		}
		found = true
	}
	if !found {
		return fmt.Errorf("there is no condition %s", of)
	}
	return nil
}

func list(in any, path ...string) []any {
	for _, field := range path {
		m, _ := in.(map[string]any)
		in = m[field]
	}
	out, _ := in.([]any)
	return out
}

func text(in any, field string) string {
	m, _ := in.(map[string]any)
	s, _ := m[field].(string)
	return s
}
