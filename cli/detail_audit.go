package cli

// auditDetail says who asked an API server for what, and what became of it.
func (s screen) auditDetail(r *record) cell {
	text := s.orUnknown(r.str("ka.user.name"))
	if as := r.str("ka.impuser.name"); as != "" {
		text += " as " + s.safe(as)
	}
	text += ": " + s.safe(r.str("ka.verb")) + " "
	if what := r.str("ka.target.resource"); what != "" {
		for _, field := range []string{"ka.target.subresource", "ka.target.namespace", "ka.target.name"} {
			if v := r.str(field); v != "" {
				what += map[string]string{"ka.target.subresource": "/", "ka.target.namespace": " ", "ka.target.name": "/"}[field] + v
			}
		}
		text += s.safe(what)
	} else {
		text += s.safe(r.str("ka.uri"))
	}
	c := cell{}
	if code := r.str("ka.response.code"); code != "" {
		text += ": " + s.safe(code)
		if code >= "400" {
			c.color = yellow
		}
		if why := r.str("ka.response.reason"); why != "" {
			text += " " + s.safe(why)
		}
	} else {
		text += ": " + s.safe(r.str("ka.stage"))
	}
	c.text = text
	return c
}
