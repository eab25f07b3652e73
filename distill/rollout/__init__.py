"""The student's own answers, who reads them, and which of a teacher's answers are kept."""
