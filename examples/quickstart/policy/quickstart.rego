# The quick start's policy: what a reader may do, what a writer may do. Nothing said is a denial.
package mcpgw.policy

reader if "reader" in input.subject.roles

writer if "writer" in input.subject.roles

# Readers use tools that only read: by annotations that this configuration trusts or sets.
allow if {
	reader
	input.resource.annotations.readOnlyHint == true
}

# Resources and prompts have no such annotation; to read them is all one can do with them.
allow if {
	reader
	input.action.name in {"resources/read", "prompts/get"}
}

allow if writer

# By name, whatever the annotations say: readers do not even see these.
deny contains "only a writer changes the repository" if {
	not writer
	input.resource.name in {"git_add", "git_commit", "git_reset"}
}

# By argument: refused unless proved small, so that null, "5" and no number at all are refused too.
deny contains "git_log shows readers 1 to 50 commits: max_count must be a number from 1 to 50" if {
	not writer
	input.resource.name == "git_log"
	not small_count
}

# A rule of its own: "not f(input.arguments.max_count)" would be undefined, and refuse nothing, where
# the argument is absent.
small_count if {
	is_number(input.arguments.max_count) # null and false sort below every number, text above
	input.arguments.max_count >= 1 # git takes -1 for all
	input.arguments.max_count <= 50
}
