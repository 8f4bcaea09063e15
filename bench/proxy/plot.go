package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// panel is one figure of the results, as bars on a logarithmic axis.
type panel struct {
	title string
	value func(result) float64 // 0: not measured
}

var panels = []panel{
	{"from the start of the process to all programmed, s", func(r result) float64 { return r.ColdSeconds }},
	{"one changed endpoint in the kernel, ms", func(r result) float64 { return r.EndpointKernel }},
	{"API write to first accepted connection, p50, ms", func(r result) float64 { return r.WriteP50 }},
	{"API write to first accepted connection, p99, ms", func(r result) float64 { return r.WriteP99 }},
	{"new connections per second, of direct", func(r result) float64 {
		if r.Traffic == nil {
			return 0
		}
		return r.Traffic.RateRatio
	}},
	{"throughput, of direct", func(r result) float64 {
		if r.Traffic == nil {
			return 0
		}
		return r.Traffic.ThroughputRatio
	}},
	{"resident memory, MiB", func(r result) float64 { return r.Memory }},
}

const (
	plotWidth  = 900
	labelWidth = 300
	barHeight  = 16
)

// plot draws the results as an SVG document.
func plot(r report) string {
	var b strings.Builder
	y := 30
	text := func(x, y int, weight, s string) {
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="%s">%s</text>`+"\n", x, y, weight, html.EscapeString(s))
	}
	text(10, y, "bold", r.Machine)
	y += 30
	for _, p := range panels {
		low, high := math.Inf(1), 0.0
		for _, res := range r.Results {
			if v := p.value(res); v > 0 {
				low, high = min(low, v), max(high, v)
			}
		}
		if high == 0 {
			continue
		}
		text(10, y, "bold", p.title)
		y += 8
		for _, res := range r.Results {
			v := p.value(res)
			if v <= 0 {
				continue
			}
			color := "#1668b8"
			if res.Proxy != "sluice" {
				color = "#c2c2c2"
			}
			text(20, y+barHeight-4, "normal", fmt.Sprintf("%s %s, %d x %d", res.Proxy, res.Mode, res.Services, res.Endpoints))
			width := barLength(v, low, high)
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", labelWidth, y, width, barHeight-3, color)
			text(labelWidth+width+6, y+barHeight-4, "normal", fmt.Sprintf("%.3g", v))
			y += barHeight
		}
		y += 24
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, y) +
		`<rect width="100%" height="100%" fill="white"/>` + "\n" + b.String() + "</svg>\n"
}

// barLength maps a value to a length: linear where the values are of one order
// of magnitude, else logarithmic.
func barLength(v, low, high float64) int {
	const longest = plotWidth - labelWidth - 80
	if high < 10*low {
		return int(v / high * longest)
	}
	floor := math.Floor(math.Log10(low)) - 0.2
	return int((math.Log10(v) - floor) / (math.Log10(high) - floor) * longest)
}
