package api

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
)

// CountParts asks an agent to count events. Each of the counts has what was
// counted since the one before, in all its rows; the first comes at once. The
// limit of q is none of them.
func (c *Client) CountParts(ctx context.Context, q CountQuestion) iter.Seq2[*Counts, error] {
	return func(yield func(*Counts, error) bool) {
		v := q.values()
		v.Del("limit")
		v.Set("parts", "true")
		for line, err := range c.lines(ctx, PathCounts, v, nil) {
			part := &Counts{}
			if err == nil {
				if err = json.Unmarshal(line, part); err != nil {
					err = fmt.Errorf("read counts: %w", err)
				}
			}
			if !yield(part, err) || err != nil {
				return
			}
		}
	}
}

// A CountSum puts together what several agents count. One goroutine uses it.
type CountSum struct{ groups }

// NewCountSum returns a sum of nothing yet, by the values of fields.
func NewCountSum(by []string) *CountSum { return &CountSum{newGroups(by)} }

// Add adds the rows of a part, and what was lost. Those for which there is no room
// are counted as others; of what the part says of others nothing is taken. The
// values of a row are those of By first; told says which rows are added.
func (s *CountSum) Add(part *Counts, told func(CountRow) bool) {
	s.counts.Lost += part.Lost
	for _, r := range part.Rows {
		if len(r.Values) < len(s.counts.By) || !told(r) {
			continue
		}
		s.begin()
		for _, v := range r.Values[:len(s.counts.By)] {
			if v == nil {
				s.key = append(s.key, 0)
			} else {
				s.key = append(append(s.key, 1), *v...)
			}
			s.ends = append(s.ends, len(s.key))
		}
		s.put(r.Count)
	}
}

// AddOthers adds events of which is not known what they are.
func (s *CountSum) AddOthers(n uint64) {
	s.counts.Total += n
	s.counts.Other += n
}

// Counts returns the sums so far: of the most rows.
func (s *CountSum) Counts() *Counts { return s.tell(maxRows) }
