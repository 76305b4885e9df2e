package mcpgw.policy

allow if {
	"reader" in input.subject.roles
	input.resource.annotations.readOnlyHint == true
}

allow if "writer" in input.subject.roles

deny contains "git_log shows 1 to 50 commits" if {
	input.resource.name == "git_log"
	not few
}

few if {
	is_number(input.arguments.max_count)
	input.arguments.max_count >= 1
	input.arguments.max_count <= limits.commits
}

limits := {"commits": 50}

ask contains "is this meant?" if input.resource.drift == "changed"

label contains "secret" if startswith(input.resource.uri, "file:///secret/")

redact contains {"pattern": "[0-9]{16}"} if "secret" in input.context.session.labels

rewrite contains {"path": "/dry_run", "value": true} if {
	input.resource.name == "git_push"
	input.context.endpoint == "rehearsal"
}

deny contains "nobody is asked this" if crypto.md5(input.arguments.broken) == ""
